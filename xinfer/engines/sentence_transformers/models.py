"""What the engine needs of a loaded model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from xinfer.engines.pooling_engine import refuse_instruction

if TYPE_CHECKING:
    from xinfer.engines.sentence_transformers.tokenizing import TextTokenizer

Tokens = tuple[list[int], list[int] | None]
"""The ids of an input, and the types of its tokens where they are not all 0."""


class Model(Protocol):
    """A loaded model."""

    tokenizer: "TextTokenizer"
    max_length: int
    """The longest input in tokens."""
    vocabulary: int
    """How many token ids there are."""
    packed: bool
    """Whether inputs run without padding."""
    normalizes: bool
    """Whether its vectors have unit length."""

    def run(self, inputs: Sequence[Tokens]) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """Inputs x dimensions; of a reranker inputs x 1."""


class Reranker(Model, Protocol):
    """A loaded model that scores pairs of a query and a document."""

    def phrased(self, query: str, instruction: str | None, limit: int) -> str:
        """What stands for the query in a pair, of which the document is cut so that both have ``limit`` tokens at most.

        Raises:
            UnsupportedParameter: it takes no instruction.
            ContextOverflow: the query leaves no room for a document.
        """


class TakesBareQueries:
    """The part of encoders that reads a query as it is."""

    def phrased(self, query: str, instruction: str | None, limit: int) -> str:  # noqa: ARG002 - they cut both
        """See ``Reranker.phrased``."""
        refuse_instruction(instruction)
        return query


def pick_dtype(wanted: str, device: torch.device) -> torch.dtype | None:
    """The dtype by its name; ``None``: as the weights are stored."""
    if wanted == "auto":
        return torch.float32 if device.type == "cpu" else None
    return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[wanted]
