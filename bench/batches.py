"""Embeddings and reranking through xinfer beside the library's own best batch in one process: the same threads, ratios.

    python bench/batches.py [--concurrent 32] [--rounds 3] [--seconds 3]

Run it with the Python that has xinfer and sentence-transformers. Each request to xinfer has one text, or one query with
one document, so that every batch is one that xinfer has made of what came at once. The library gets all texts in one
call, with the batch size that is best for it. The models: demo-embed and demo-rerank, and both with the size of MiniLM
and random weights. One thread each; CPU counts every process of xinfer, and the client is none of them.
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sentence_transformers
import torch
import transformers
from launching import launch
from xinference_client import closed_loop
from xinference_models import DEMO, WORDS
from xinference_servers import Server, xinfer

TEXTS = 256
BATCH_SIZES = (8, 16, 32, 64, 128)
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


@dataclass(frozen=True)
class Model:
    """A model, and whether it scores pairs rather than making vectors."""

    name: str
    folder: Path
    scores: bool

    @property
    def path(self) -> str:
        """Where requests go."""
        return "/v1/rerank" if self.scores else "/v1/embeddings"

    def body(self, text: str) -> bytes:
        """A request with one text."""
        fields = {"query": text, "documents": [text[::-1]]} if self.scores else {"input": text}
        return json.dumps({"model": self.name, **fields}).encode()

    def library(self) -> Callable[[Sequence[str], int], object]:
        """The library's own way, given texts and the size of a batch."""
        if self.scores:
            scorer = sentence_transformers.CrossEncoder(str(self.folder), device="cpu")
            return lambda texts, size: scorer.predict([(text, text[::-1]) for text in texts], batch_size=size)
        encoder = sentence_transformers.SentenceTransformer(str(self.folder), device="cpu")
        return lambda texts, size: encoder.encode(list(texts), batch_size=size)


def models(scratch: Path) -> Iterator[Model]:
    """The two small ones as they are, and as large as MiniLM."""
    for name, scores in (("demo-embed", False), ("demo-rerank", True)):
        yield Model(name, DEMO / name, scores)
        yield Model(f"{name}-minilm", enlarged(DEMO / name, scratch / name, scores=scores), scores)


def enlarged(folder: Path, to: Path, *, scores: bool) -> Path:
    """A copy of a BERT with other sizes and random weights."""
    shutil.copytree(folder, to)
    config = transformers.BertConfig(**{**json.loads((folder / "config.json").read_text()), **MINILM})
    kind = transformers.BertForSequenceClassification if scores else transformers.BertModel
    torch.manual_seed(1)
    for file in to.glob("*.safetensors"):
        file.unlink()
    kind(config).save_pretrained(to)
    pooling = to / "1_Pooling" / "config.json"
    if pooling.is_file():
        pooling.write_text(pooling.read_text().replace(": 64", f": {MINILM['hidden_size']}"))
    return to


def texts() -> list[str]:
    """Of 8 to 40 words, each another one."""
    return [
        " ".join(WORDS[(number * step + step) % len(WORDS)] for step in range(8 + number * 7 % 33))
        for number in range(TEXTS)
    ]


@dataclass
class Side:
    """What one of the two did in each round."""

    rates: list[float] = field(default_factory=list)
    """Texts per second."""
    costs: list[float] = field(default_factory=list)
    """CPU milliseconds per text."""

    def add(self, count: int, wall_s: float, cpu_s: float) -> None:
        """A round."""
        self.rates.append(count / wall_s)
        self.costs.append(1000 * cpu_s / count)

    def __str__(self) -> str:
        return f"{statistics.median(self.rates):8.0f} texts/s {statistics.median(self.costs):7.2f} ms CPU/text"


def by_library(work: Callable[[Sequence[str], int], object], given: Sequence[str], size: int, side: Side) -> None:
    """All texts in one call."""
    started, used = time.perf_counter(), time.process_time()
    work(given, size)
    side.add(len(given), time.perf_counter() - started, time.process_time() - used)


async def by_server(
    server: Server, model: Model, given: Sequence[str], options: argparse.Namespace, side: Side
) -> None:
    """One text in each request, many at once."""
    bodies = [model.body(text) for text in given]
    used = server.cpu_s()
    rates = await closed_loop(server.port, model.path, bodies, concurrent=options.concurrent, seconds=options.seconds)
    side.add(rates.requests, rates.wall_s, server.cpu_s() - used)


async def compare(server: Server, model: Model, options: argparse.Namespace) -> None:
    """Launch a model, and print who does how much."""
    body: dict[str, Any] = {"model_uid": model.name, "model_name": model.name, "model_path": str(model.folder)}
    body |= {"model_engine": "sentence_transformers", "model_type": "rerank" if model.scores else "embedding"}
    await launch(server.port, body | {"n_gpu": None})
    given, work = texts(), model.library()
    work(given[:64], 32)
    trials = {size: Side() for size in BATCH_SIZES}
    for size, side in trials.items():
        by_library(work, given, size, side)
    best = min(trials, key=lambda size: trials[size].costs[0])
    ours, theirs = Side(), Side()
    await closed_loop(server.port, model.path, [model.body(given[0])], concurrent=options.concurrent, seconds=1.0)
    for _ in range(options.rounds):
        await by_server(server, model, given, options, ours)
        by_library(work, given, best, theirs)
    faster = [mine / its for mine, its in zip(ours.rates, theirs.rates, strict=True)]
    cheaper = [its / mine for mine, its in zip(ours.costs, theirs.costs, strict=True)]
    print(f"{model.name:20} xinfer, {options.concurrent:3} at once   {ours}")
    print(f"{'':20} batches of {best:3}       {theirs}   {_spread(faster)}; CPU {_spread(cheaper)}", flush=True)


def _spread(ratios: Sequence[float]) -> str:
    return f"x {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrent", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        server = Server(xinfer(), Path(scratch) / "home")
        stack.callback(server.stop)
        server.start()
        for model in models(Path(scratch)):
            asyncio.run(compare(server, model, options))


if __name__ == "__main__":
    main()
