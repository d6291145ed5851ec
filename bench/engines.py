"""An engine behind xinfer beside that engine's own server: the same wheel, model, settings and client, as ratios.

    python bench/engines.py --python VENV/bin/python [--concurrent 1 8 32] [--rounds 12] [--seconds 2]

VENV has vLLM and xinfer (``xinfer engine install vllm`` makes one). Both servers run at once and are asked in short
turns, each of them first in every other round, so that what else the machine does hits both alike. A ratio is the
median of those of the rounds, with the half of them around it in brackets. CPU counts every process of a server: for
xinfer also the supervisor, the worker and the gateway.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

import xinfer.catalog

HOST = "127.0.0.1"
MODEL = "bench"
DEMO = Path(xinfer.catalog.__file__).parent / "demo" / "demo-chat"
ENGINE_ARGUMENTS = {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 64, "max_model_len": 2048}
PARSERS = (
    "--enable-auto-tool-choice",
    "--tool-call-parser=hermes",
    "--reasoning-parser=qwen3",
    '--default-chat-template-kwargs={"enable_thinking": false}',
)
"""What xinfer tells from the model's chat template; parsers cost time for every token, so both have them."""
KV_MIB = 512
SLICE_MIB = 4000
START_LIMIT_S = 240
WARM_UP_S = 2.0
QUIET = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "HF_HUB_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


@dataclass
class Server:
    """A running server: all of its processes are under one."""

    name: str
    port: int
    process: psutil.Process

    def cpu_s(self) -> float:
        used = 0.0
        for process in [self.process, *self.process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used += times.user + times.system
        return used


@dataclass
class Seen:
    """What one round of load saw."""

    requests: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    first_s: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.requests / self.wall_s

    @property
    def cpu_per_request(self) -> float:
        return self.cpu_s / self.requests

    @property
    def first(self) -> float:
        return statistics.median(self.first_s) if self.first_s else 0.0


def body(number: int, tokens: int, *, stream: bool) -> bytes:
    message = {"role": "user", "content": f"Question {number}: what is a lease?"}
    fields = {"model": MODEL, "messages": [message], "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    return json.dumps(fields | ({"stream": True} if stream else {})).encode()


async def ask(port: int, data: bytes, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    started = time.perf_counter()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {HOST}:{port}\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
    answer = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not answer.startswith(b"http/1.1 200"):
        raise RuntimeError((answer + await reader.read(2000)).decode(errors="replace"))
    if b"content-length:" in answer:
        await reader.readexactly(int(answer.split(b"content-length:")[1].split(b"\r\n")[0]))
    else:
        tail = b""
        while not tail.endswith(b"0\r\n\r\n"):
            piece = await reader.read(1 << 16)
            if not piece:
                raise RuntimeError("the stream ended early")
            if not tail:
                seen.first_s.append(time.perf_counter() - started)
            tail = (tail + piece)[-16:]
    seen.requests += 1


async def load(port: int, *, concurrent: int, seconds: float, tokens: int, stream: bool) -> Seen:
    """A closed loop: each client has its next request as soon as its last one is answered."""
    seen = Seen()
    started = time.perf_counter()

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection(HOST, port, limit=1 << 22)
        while time.perf_counter() - started < seconds:
            await ask(port, body(number, tokens, stream=stream), seen, reader, writer)
            number += concurrent
        writer.close()

    await asyncio.gather(*[client(number) for number in range(concurrent)])
    seen.wall_s = time.perf_counter() - started
    return seen


def measure(server: Server, *, concurrent: int, seconds: float, tokens: int, stream: bool) -> Seen:
    before = server.cpu_s()
    seen = asyncio.run(load(server.port, concurrent=concurrent, seconds=seconds, tokens=tokens, stream=stream))
    seen.cpu_s = server.cpu_s() - before
    return seen


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(name: str, port: int, command: list[str], env: dict[str, str], home: Path) -> Iterator[Server]:
    log = home / f"{name}.log"
    with log.open("wb") as output:
        child = psutil.Popen(command, env=os.environ | QUIET | env, stdout=output, stderr=output, cwd=home)
    try:
        yield Server(name, port, child)
    except BaseException:
        print(log.read_text(errors="replace")[-3000:])
        raise
    finally:
        family = [child, *child.children(recursive=True)]
        child.terminate()
        for process in psutil.wait_procs(family, timeout=20)[1]:
            process.kill()


def until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if ready():
                return
        time.sleep(0.5)
    raise SystemExit("a server does not come up")


@contextlib.contextmanager
def vllm_alone(python: Path, home: Path) -> Iterator[Server]:
    """vLLM's own server."""
    port = free_port()
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", f"--model={DEMO}"]
    command += [f"--served-model-name={MODEL}", f"--kv-cache-memory-bytes={KV_MIB << 20}"]
    command += [f"--port={port}", f"--host={HOST}", "--disable-uvicorn-access-log", *PARSERS]
    for name, value in ENGINE_ARGUMENTS.items():
        command.append(f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}"))
    with running("vllm", port, command, {}, home) as server:
        until(lambda: httpx.get(f"http://{HOST}:{port}/health", timeout=5).status_code == 200)
        yield server


@contextlib.contextmanager
def vllm_behind_xinfer(python: Path, home: Path) -> Iterator[Server]:
    """xinfer-local with the same model on vLLM."""
    port = free_port()
    env = {"XINFER_HOME": str(home / "xinfer"), "XINFER_TOKEN_FILE": str(home / "token"), "XINFER_MODEL_ROOTS": "/"}
    command = [str(python), "-c", "from xinfer.cli.serve import local; local()", "-p", str(port)]
    with running("xinfer", port, command, env, home) as server:
        url = f"http://{HOST}:{port}"
        launch = {"model_name": MODEL, "model_path": str(DEMO), "model_engine": "vllm", "memory_mib": SLICE_MIB}
        launch |= ENGINE_ARGUMENTS | {"kv_cache_memory_bytes": KV_MIB << 20}
        until(lambda: httpx.get(f"{url}/ready", timeout=5).status_code == 200)
        until(lambda: httpx.post(f"{url}/v1/models", json=launch, timeout=START_LIMIT_S).raise_for_status().is_success)
        yield server


def compare(servers: tuple[Server, Server], options: argparse.Namespace) -> None:
    print(f"{'':12} {'requests/s':>38} {'CPU per request, ms':>38} {'first byte, ms':>38}")
    for stream in (False, True):
        for concurrent in options.concurrent:
            settings = {"concurrent": concurrent, "tokens": options.tokens, "stream": stream}
            for server in servers:
                measure(server, seconds=WARM_UP_S, **settings)
            rounds = []
            for number in range(options.rounds):
                turns = servers if number % 2 == 0 else servers[::-1]
                seen = {server.name: measure(server, seconds=options.seconds, **settings) for server in turns}
                rounds.append([seen[server.name] for server in servers])
            label = f"{'stream' if stream else 'whole'} x {concurrent}"
            print(
                f"{label:12}",
                *(column(rounds, quantity) for quantity in ("rate", "cpu_per_request", "first")),
                flush=True,
            )


def column(rounds: list[list[Seen]], quantity: str) -> str:
    """Both medians, and of the ratios of the rounds, xinfer / alone, the median and both quartiles."""
    alone, ours = ([getattr(pair[side], quantity) for pair in rounds] for side in (0, 1))
    if not all(alone):
        return f"{'':>38}"
    scale = 1 if quantity == "rate" else 1000
    ratios = [mine / other for mine, other in zip(ours, alone, strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive")
    medians = f"{statistics.median(alone) * scale:9.2f} {statistics.median(ours) * scale:9.2f}"
    return f"{medians} {ratio:5.2f}x [{low:4.2f}-{high:4.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="of the environment that has vLLM and xinfer")
    parser.add_argument("--concurrent", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        vllm_alone(options.python, Path(folder)) as alone,
        vllm_behind_xinfer(options.python, Path(folder)) as ours,
    ):
        print(f"vLLM's own server, xinfer with vLLM, ratio; {options.tokens} tokens per answer, demo-chat, one thread")
        compare((alone, ours), options)


if __name__ == "__main__":
    main()
