"""What the engine needs of a loaded model, and how it gets one: natively where it can, else with the library."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from xinfer.engines.pooling_engine import refuse_instruction
from xinfer.engines.sentence_transformers.folder import ModelFolder, NotNative
from xinfer.engines.sentence_transformers.options import Options
from xinfer.generation.judging import find_judge
from xinfer.ops import Kind

if TYPE_CHECKING:
    from xinfer.engines.sentence_transformers.tokenizing import TextTokenizer

logger = logging.getLogger(__name__)

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


def load_model(kind: Kind, folder: ModelFolder, options: Options, device: torch.device, prompt: str) -> Model:
    """Load a model by the first way that can.

    Raises:
        ValueError: none can, or not the one that ``options`` insist on; says why.
    """
    judge = find_judge(folder.path) if kind is Kind.RERANK and options.implementation != "native" else None
    if judge is not None:
        from xinfer.engines.sentence_transformers.judge import JudgeReranker  # noqa: PLC0415 - imports transformers

        return JudgeReranker(folder, judge, options, device, prompt)
    if options.implementation != "library" and not options.trust_remote_code:
        try:
            return _load_native(kind, folder, options, device, prompt)
        except NotNative as reason:
            if options.implementation == "native":
                raise ValueError(f"{folder.path} cannot run natively: {reason}") from None
            logger.info("running %s with the sentence-transformers library: %s", folder.path, reason)
    from xinfer.engines.sentence_transformers import library  # noqa: PLC0415 - four seconds and 200 MiB, rarely needed

    loader = library.LibraryReranker if kind is Kind.RERANK else library.LibraryEmbedder
    return loader(folder, options, device, prompt)


def _load_native(kind: Kind, folder: ModelFolder, options: Options, device: torch.device, prompt: str) -> Model:
    from xinfer.engines.sentence_transformers import native  # noqa: PLC0415 - beside its alternative above

    dtype = pick_dtype(options.dtype, device)
    if kind is Kind.RERANK:
        return native.NativeReranker(folder.path, folder.rerank_plan(), device, dtype)
    plan = folder.embedding_plan(pooling=options.pooling, normalize=options.normalize)
    if prompt and not plan.pooling.include_prompt:
        raise NotNative("it leaves the prompt out of the pooling")
    return native.NativeEmbedder(folder.path, plan, device, dtype)


def pick_dtype(wanted: str, device: torch.device) -> torch.dtype | None:
    """The dtype by its name; ``None``: as the weights are stored."""
    if wanted == "auto":
        return torch.float32 if device.type == "cpu" else None
    return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[wanted]
