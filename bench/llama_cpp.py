"""xinfer with llama.cpp beside llama.cpp's own servers: the same file, settings and client, in turns, as ratios.

    python bench/llama_cpp.py [--llama-server PATH] [--model FILE.gguf | --weights q4_0] [--rounds 3] [--at 1 8 16]

Run it with the Python that has xinfer, llama-cpp-python and what ``llama_cpp.server`` needs (``pip install
"llama-cpp-python[server]"``). ``llama-server`` is built from llama.cpp's source; the sdist of llama-cpp-python holds
the one that it is made of. Without ``--model`` a random model is written, whose answers make no sense: what is measured
is the engine's overhead. One thread each.

How much a batch gains depends on the kernels for the type of the weights, and on how they are compiled: those of
``xinfer engine install llama.cpp`` with the flags in ``xinfer/engines/llama_cpp/requirements.py``, which pip takes from
CXXFLAGS.
"""

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import launching
import numpy as np
import psutil
from xinference_client import HOST, Connection, Refused, ask

DEMO = Path(__file__).parent.parent / "xinfer" / "catalog" / "demo" / "demo-chat" / "demo-chat.gguf"
SLOTS = 16
CONTEXT = 4096
PREFIX_TOKENS = 2000
SHARERS = 8
START_LIMIT_S = 120.0
POLL_S = 0.05
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
BROKEN = (Refused, OSError, ValueError, asyncio.IncompleteReadError)
"""How answers that do not come to their end show: a chunk that is cut off is no number, for instance."""


# --- the model ---


def random_model(path: Path, weights: str, layers: int = 8, hidden: int = 512) -> Path:
    """A Qwen3 with random weights of a type such as q8_0, and the tokenizer of demo-chat."""
    stored = gguf.GGMLQuantizationType[weights.upper()]
    heads, kv_heads, head_size, inner = 8, 4, 64, 3 * hidden
    writer = gguf.GGUFWriter(path, "qwen3")
    vocabulary = _copy_tokenizer(writer)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    shapes = {"token_embd": (vocabulary, hidden), "output_norm": (hidden,)}
    for layer in range(layers):
        shapes |= {
            f"blk.{layer}.{name}": shape
            for name, shape in {
                "attn_norm": (hidden,),
                "ffn_norm": (hidden,),
                "attn_q_norm": (head_size,),
                "attn_k_norm": (head_size,),
                "attn_q": (heads * head_size, hidden),
                "attn_k": (kv_heads * head_size, hidden),
                "attn_v": (kv_heads * head_size, hidden),
                "attn_output": (hidden, heads * head_size),
                "ffn_gate": (inner, hidden),
                "ffn_up": (inner, hidden),
                "ffn_down": (hidden, inner),
            }.items()
        }
    random = np.random.default_rng(7)
    for name, shape in shapes.items():
        is_matrix = len(shape) > 1
        values = random.normal(0, 0.05, shape).astype(np.float32) if is_matrix else np.ones(shape, np.float32)
        kind = stored if is_matrix else gguf.GGMLQuantizationType.F32
        writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _copy_tokenizer(writer: gguf.GGUFWriter) -> int:
    """Take over the tokenizer of demo-chat: how many tokens there are."""
    fields = gguf.GGUFReader(DEMO).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(fields["tokenizer.ggml.token_type"].contents())
    writer.add_token_merges(fields["tokenizer.ggml.merges"].contents())
    writer.add_eos_token_id(int(fields["tokenizer.ggml.eos_token_id"].contents()))
    writer.add_bos_token_id(int(fields["tokenizer.ggml.bos_token_id"].contents()))
    writer.add_add_bos_token(False)
    return len(tokens)


# --- the servers ---


@dataclass
class Server:
    """A running server. Of each round, by the number of clients:"""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    rates: dict[int, list[float]] = field(default_factory=dict)
    """Tokens per second."""
    costs: dict[int, list[float]] = field(default_factory=dict)
    """CPU milliseconds of all its processes per token: what else runs on the machine disturbs it less."""
    broken: dict[int, int] = field(default_factory=dict)
    """Requests that got no whole answer, by the number of clients."""

    def cpu_s(self) -> float:
        """CPU time of all its processes so far, seconds."""
        own = psutil.Process(self.process.pid)
        times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
        return sum(used.user + used.system for used in times)

    def stop(self) -> None:
        """End it, and wait."""
        self.process.terminate()
        self.process.wait(30)


def start(name: str, command: Sequence[str], port: int, ready: str, home: Path, **environment: str) -> Server:
    """Start a server, and return once it answers.

    Raises:
        RuntimeError: it ended, or took too long; with the end of what it printed.
    """
    log = home / f"{name.replace('/', '-')}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | ONE_THREAD | environment)
    server = Server(name, port, process, log)
    deadline = time.perf_counter() + START_LIMIT_S
    while not _answers(port, ready):
        if process.poll() is not None or time.perf_counter() > deadline:
            server.stop()
            raise RuntimeError(f"{name} did not start:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(POLL_S)
    return server


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError):
        connection.request("GET", path)
        return connection.getresponse().status == 200
    return False


def start_xinfer(home: Path) -> Server:
    """The whole of it: gateway, supervisor, worker."""
    port = _free_port()
    command = [str(Path(sys.executable).with_name("xinfer-local")), "-H", HOST, "-p", str(port)]
    places = {"XINFER_HOME": str(home / "xinfer"), "XINFER_TOKEN_FILE": str(home / "token")}
    return start("xinfer", command, port, "/ready", home, **places, XINFER_MODEL_ROOTS="/")


def launch(server: Server, uid: str, model: Path, **options: object) -> None:
    """Launch the model in xinfer."""
    body = {"model_uid": uid, "model_name": uid, "model_engine": "llama.cpp", "model_path": str(model), "n_gpu": None}
    settings = {"n_parallel": SLOTS, "n_ctx": SLOTS * CONTEXT, "n_threads": 1, "memory_mib": 3000}
    asyncio.run(launching.launch(server.port, body | settings | options))


def start_llama_server(binary: Path, model: Path, home: Path) -> Server:
    """llama.cpp's own, in C++."""
    port = _free_port()
    command = [str(binary), "-m", str(model), "--host", HOST, "--port", str(port), "-t", "1", "-tb", "1"]
    command += ["-np", str(SLOTS), "-c", str(SLOTS * CONTEXT), "--no-webui"]
    return start("llama-server", command, port, "/health", home)


def start_python_server(model: Path, home: Path) -> Server:
    """That of llama-cpp-python."""
    port = _free_port()
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--host", HOST, "--port", str(port)]
    command += ["--n_threads", "1", "--n_threads_batch", "1", "--n_ctx", str(CONTEXT)]
    return start("llama_cpp.server", command, port, "/v1/models", home)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


# --- load ---


def body_of(number: int, tokens: int, *, stream: bool = False, prefix: str = "", model: str = "mid") -> bytes:
    """A completion that nobody else asks for, behind what all share."""
    own = " ".join(str(number * 7919 % 10007 * step) for step in range(1, 5))
    fields = {"model": model, "prompt": f"{prefix}{own}", "max_tokens": tokens, "temperature": 0, "stream": stream}
    # Keeps the random model from ending early; llama_cpp.server knows no ignore_eos.
    return json.dumps(fields | {"logit_bias": {"1015": -100, "1017": -100}}).encode()


async def load(server: Server, clients: int, tokens: int, repeats: int, first: int) -> None:
    """Some clients at once, each with one request after another."""
    whole = 0

    async def client(number: int) -> None:
        nonlocal whole
        connection = Connection(server.port)
        try:
            for turn in range(repeats):
                body = body_of(first + number * repeats + turn, tokens)
                with contextlib.suppress(*BROKEN):
                    answer = json.loads(await connection.post("/v1/completions", body))
                    whole += int(answer["usage"]["completion_tokens"])
                    continue
                server.broken[clients] = server.broken.get(clients, 0) + 1
                await connection.close()
                connection = Connection(server.port)
        finally:
            await connection.close()

    started, used = time.perf_counter(), server.cpu_s()
    await asyncio.gather(*[client(number) for number in range(clients)])
    server.rates.setdefault(clients, []).append(whole / (time.perf_counter() - started))
    server.costs.setdefault(clients, []).append(1000 * (server.cpu_s() - used) / max(whole, 1))


async def broken_streams(server: Server, clients: int, tokens: int) -> int:
    """How many of as many streams at once do not come to their end."""

    async def client(number: int) -> bool:
        try:
            answer = await ask(server.port, "/v1/completions", body_of(number, tokens, stream=True))
        except BROKEN:
            return True
        return b"data: [DONE]" not in answer

    return sum(await asyncio.gather(*[client(number) for number in range(clients)]))


def prefix_of(seed: int) -> str:
    """A long beginning, of digits: nearly every one of them is a token."""
    random = np.random.default_rng(seed)
    return "".join(map(str, random.integers(0, 10, PREFIX_TOKENS)))


async def first_tokens(server: Server, model: str, prefix: str, first: int) -> float:
    """Mean seconds to the first token of requests that begin alike and come together."""

    async def client(number: int) -> float:
        body = body_of(number, 1, prefix=prefix, model=model)
        started = time.perf_counter()
        await ask(server.port, "/v1/completions", body)
        return time.perf_counter() - started

    return statistics.mean(await asyncio.gather(*[client(first + number) for number in range(SHARERS)]))


def measure_prefixes(server: Server, model: Path, rounds: int) -> None:
    """A prefix that nobody knows yet, the same one again, and without reuse."""
    launch(server, "anew", model, prefix_caching=False)
    times: dict[str, list[float]] = {"new": [], "known": [], "without reuse": []}
    for seed in range(rounds):
        prefix = prefix_of(seed)
        times["new"].append(asyncio.run(first_tokens(server, "mid", prefix, 0)))
        times["known"].append(asyncio.run(first_tokens(server, "mid", prefix, SHARERS)))
        times["without reuse"].append(asyncio.run(first_tokens(server, "anew", prefix, 0)))
    slow = statistics.median(times["without reuse"])
    print(f"{SHARERS} prompts with {PREFIX_TOKENS} tokens in common, mean time to the first token:")
    for name, found in times.items():
        print(f"    {name:14} {statistics.median(found):6.2f} s   x {slow / statistics.median(found):.1f}")


# --- the report ---


def compare(ours: Server, theirs: Sequence[Server], clients: Sequence[int]) -> Iterator[str]:
    """A line for each number of clients and each other server."""
    for count in clients:
        yield f"{count:3} clients  {ours.name:18} {_rate(ours, count)}"
        for other in theirs:
            faster = [mine / its for mine, its in zip(ours.rates[count], other.rates[count], strict=True) if its]
            cheaper = [its / mine for mine, its in zip(ours.costs[count], other.costs[count], strict=True)]
            lost = f", {other.broken[count]} requests broken" if count in other.broken else ""
            ratios = f"{_spread(faster)}; CPU {_spread(cheaper)}"
            yield f"             {other.name:18} {_rate(other, count)}   {ratios}{lost}"


def _rate(server: Server, clients: int) -> str:
    rate, cost = statistics.median(server.rates[clients]), statistics.median(server.costs[clients])
    return f"{rate:7.0f} tok/s {cost:6.2f} ms CPU/tok"


def _spread(ratios: Sequence[float]) -> str:
    return f"x {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "-"


def measure(arguments: argparse.Namespace, home: Path, stack: contextlib.ExitStack) -> None:
    """Start everything, measure in turns, print."""
    model = arguments.model or random_model(home / "mid.gguf", arguments.weights)

    def running(server: Server) -> Server:
        stack.callback(server.stop)
        return server

    ours = running(start_xinfer(home))
    launch(ours, "mid", model)
    theirs = [running(start_python_server(model, home))]
    if arguments.llama_server:
        theirs.append(running(start_llama_server(arguments.llama_server, model, home)))
    number = 0
    for clients in arguments.at:
        for _ in range(arguments.rounds):
            for server in (ours, *theirs):
                asyncio.run(load(server, clients, arguments.tokens, arguments.repeats, number))
            number += clients * arguments.repeats
    print("\n".join(compare(ours, theirs, arguments.at)))
    for server in (ours, *theirs):
        broken = asyncio.run(broken_streams(server, SLOTS, arguments.tokens))
        print(f"{SLOTS} streams at once: {server.name} broke {broken}")
    measure_prefixes(ours, model, arguments.rounds)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-server", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--weights", default="q8_0", choices=["q8_0", "q4_0", "q4_1", "q5_0", "f16"])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--at", type=int, nargs="+", default=[1, 8, 16])
    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as stack:
        measure(parser.parse_args(), Path(home), stack)


if __name__ == "__main__":
    main()
