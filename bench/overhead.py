"""What the server itself costs: CPU per streamed chunk and per request, beside two references, in one run.

    python bench/overhead.py [--rounds N] [--quick]

The engine is echo, which costs next to nothing, so what is measured is gateway + channel + replica. The references are
started here as well: a bare raw-ASGI app that streams the same bytes at the same beat (reference/app.py), and the
plainest possible proxy in front of it (reference/proxy.py). Absolute times mean nothing on a shared machine; the ratio
in the last column does: (gateway + replica) / (proxy + app).
"""

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvloop
from cpu import cpu_of
from load import Outcome, run

HERE = Path(__file__).parent
PACED = 50.0
"""Tokens per second and stream; all streams of an engine beat together, as the steps of a batching engine do."""
CHUNKS = {PACED: {1: 100, 16: 150, 64: 150, 256: 100}, 0.0: {1: 4000, 16: 1500, 64: 500, 256: 200}}
"""Beat -> streams at once -> chunks of each. At beat 0 every server streams as fast as it can."""


@dataclass
class Target:
    """A server under load: its port, its model, and the processes whose CPU time counts."""

    name: str
    port: int
    pids: list[int]
    model: str = "echo"
    calm_model: str = "echo"
    """The model for requests that are not streamed; it answers at once."""


@dataclass
class Cost:
    """Microseconds of CPU per unit, one per process; and the median time to the first byte, in milliseconds."""

    each: list[float]
    first_byte_ms: float = 0.0

    @property
    def total(self) -> float:
        return sum(self.each)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def process(*argv: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen]:
    child = subprocess.Popen([sys.executable, *argv], env={**os.environ, **(env or {})})
    try:
        yield child
    finally:
        child.terminate()
        child.wait(60)


def wait_for(client: httpx.Client, method: str, path: str, body: object = None) -> httpx.Response:
    """Ask until the answer is no failure of the server."""
    for _ in range(300):
        with contextlib.suppress(httpx.TransportError):
            answer = client.request(method, path, json=body)
            if answer.status_code < 500:
                return answer.raise_for_status()
        time.sleep(0.1)
    raise SystemExit(f"{client.base_url} does not come up")


@contextlib.contextmanager
def references(home: Path, beat: float) -> Iterator[tuple[Target, Target]]:
    """(the app alone, the proxy in front of an app)."""
    app_port, proxy_port, upstream = free_port(), free_port(), str(home / "app.sock")
    app, proxy = str(HERE / "reference" / "app.py"), str(HERE / "reference" / "proxy.py")
    rate = ("--rate", str(beat))
    with (
        process(app, "--port", str(app_port), *rate) as alone,
        process(app, "--uds", upstream, *rate) as behind,
        process(proxy, "--port", str(proxy_port), "--upstream", upstream) as front,
    ):
        for port in (app_port, proxy_port):
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=5) as client:
                wait_for(client, "POST", "/v1/chat/completions", {"messages": [{"content": "x"}]})
        yield Target("app", app_port, [alone.pid]), Target("proxy+app", proxy_port, [front.pid, behind.pid])


@contextlib.contextmanager
def xinfer(home: Path, beat: float) -> Iterator[Target]:
    """The whole product on this machine, as a user starts it, with two echo models."""
    port = free_port()
    env = {"XINFER_HOME": str(home), "XINFER_TOKEN_FILE": str(home / "token")}
    with process("-c", "from xinfer.cli.serve import local; local()", "-p", str(port), env=env):
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
            wait_for(client, "GET", "/ready")
            for uid, rate in (("echo", beat), ("calm", 0)):
                body = {"model_name": "echo", "model_uid": uid, "rate": rate}
                wait_for(client, "POST", "/v1/models", body)  # 503 until the worker has joined
            gateways = [int(record["pid"]) for record in map(read_json, (home / "gateways").glob("*.json"))]
            replica = client.get("/v1/models/echo/replicas").json()[0]["pid"]
            calm = client.get("/v1/models/calm/replicas").json()[0]["pid"]
        yield Target("gateway+replica", port, [*gateways, replica, calm], calm_model="calm")


def read_json(path: Path) -> dict:
    return httpx.Response(200, content=path.read_bytes()).json()


def measure(target: Target, streams: int, chunks: int) -> Cost:
    """One run of streams."""
    before = cpu_of(target.pids)
    outcome: Outcome = uvloop.run(run(target.port, model=target.model, streams=streams, words=chunks))
    spent = [after - earlier for after, earlier in zip(cpu_of(target.pids), before, strict=True)]
    assert outcome.chunks == streams * chunks, f"{target.name}: {outcome.chunks} chunks instead of {streams * chunks}"
    return Cost([s / outcome.chunks * 1e6 for s in spent], statistics.median(outcome.first_byte_s) * 1e3)


def measure_requests(target: Target, requests: int) -> Cost:
    """Requests of 2 KB, not streamed, eight at a time."""
    before = cpu_of(target.pids)
    load = run(target.port, model=target.calm_model, streams=8, words=330, repeats=requests // 8, stream=False)
    outcome: Outcome = uvloop.run(load)
    spent = [after - earlier for after, earlier in zip(cpu_of(target.pids), before, strict=True)]
    return Cost([s / outcome.requests * 1e6 for s in spent])


def median_of(costs: list[Cost]) -> Cost:
    return sorted(costs, key=lambda cost: cost.total)[len(costs) // 2]


def show(label: str, app: Cost, proxied: Cost, ours: Cost) -> None:
    gateway, replica = ours.each[0], sum(ours.each[1:])
    print(
        f"{label:>12} {app.total:8.1f} {proxied.each[0]:8.1f} +{proxied.each[1]:6.1f} {gateway:9.1f} +{replica:6.1f}"
        f" {ours.total / proxied.total:8.2f}"
    )


def compare(home: Path, beat: float, rounds: int, shorter: int) -> None:
    """One table: both references and the product at one beat."""
    home.mkdir()
    with references(home, beat) as (app, proxied), xinfer(home / "home", beat) as ours:
        targets = (app, proxied, ours)
        for target in targets:
            measure(target, 8, 20)
        pace = f"{beat:g} chunks per second and stream" if beat else "as fast as they can"
        print(f"\nmicroseconds of CPU per streamed chunk, {pace}; the ratio is (gateway+replica) / (proxy+app)")
        print(f"{'streams':>12} {'app':>8} {'proxy':>8} + {'app':>5} {'gateway':>9} +{'replica':>7} {'ratio':>8}")
        first_byte = ""
        for streams, chunks in CHUNKS[beat].items():
            taken: dict[str, list[Cost]] = {target.name: [] for target in targets}
            for _ in range(rounds):
                for target in targets:
                    taken[target.name].append(measure(target, streams, chunks // shorter))
            one, two, three = (median_of(taken[target.name]) for target in targets)
            show(str(streams), one, two, three)
            if streams == 1:
                added = median_first_byte(taken[ours.name]) - median_first_byte(taken[app.name])
                first_byte = f"first byte at one stream: {added:+.2f} ms beside the bare app"
        if beat:
            print(first_byte)
            return
        print("\nmicroseconds of CPU per request of 2 KB, not streamed, 8 at a time")
        show("requests", *[median_of([measure_requests(target, 800) for _ in range(rounds)]) for target in targets])


def median_first_byte(costs: list[Cost]) -> float:
    return statistics.median(cost.first_byte_ms for cost in costs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many is shown")
    parser.add_argument("--quick", action="store_true", help="one short round")
    options = parser.parse_args()
    rounds, shorter = (1, 2) if options.quick else (options.rounds, 1)
    with tempfile.TemporaryDirectory(prefix="xi-") as folder:
        for beat in CHUNKS:
            compare(Path(folder) / f"{beat:g}", beat, rounds, shorter)


if __name__ == "__main__":
    main()
