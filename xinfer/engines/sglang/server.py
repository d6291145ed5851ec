"""SGLang's server as a child process: started, waited for, watched and ended."""

import asyncio
import contextlib
import secrets
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Self

import msgspec
import psutil

from xinfer.engines.base import Load, Progress
from xinfer.engines.passthrough import PATHS, Answer, HttpCaller, HttpClient, Origin
from xinfer.engines.sglang.refusing import refused
from xinfer.engines.sglang.traces import Traces
from xinfer.errors import EndpointFailed, LoadFailed
from xinfer.ops import Op
from xinfer.processes import ProcessId, lasting_port
from xinfer.settings import child_environment

NAME = "SGLang's server"
HOST = "127.0.0.1"
SGLANG_PATHS = {**PATHS, Op.CLASSIFY: "/v1/classify"}
READY_PATH = "/health"
LOADS_PATH = "/v1/loads?include=core"
ASK_S = 0.25
"""How often a server that starts is asked whether it is ready."""
BUSY_ASK_S = 1.0
"""How often one that works is asked how busy it is."""
LAST_WORDS_S = 1.0
"""How long the log of one that ended may take to arrive."""
END_S = 3.0
"""How long after its connections one that ends may end itself."""
CLOSE_GRACE_S = 3.0
KEPT_LINES = 20
NOISE = ("nanobind: ", " - leaked ", " - ... skipped", "See https://nanobind", "kill_process_tree called", " [--")
"""What it says while it ends, whatever the reason, and hundreds of lines about its usage; they would push that out of
the last lines."""
STAGES = (
    ("Load weight begin", "reading weights", 0.3),
    ("Load weight end", "making the cache", 0.6),
    ("KV Cache is allocated", "capturing graphs", 0.7),
    ("Application startup complete", "warming up", 0.9),
)
"""What its log says when a stage begins, the stage, and how far that is."""


class RankLoad(msgspec.Struct):
    """What one of its schedulers says of itself, in its words."""

    num_running_reqs: int = 0
    num_waiting_reqs: int = 0
    num_waiting_uncached_tokens: int = 0
    token_usage: float = 0.0
    gen_throughput: float = 0.0


class Loads(msgspec.Struct):
    """Its answer."""

    loads: list[RankLoad]


class SglangServer:
    """One server. ``failure`` says why it has ended, where nobody asked it to; ``load`` is what it said last."""

    def __init__(
        self, process: asyncio.subprocess.Process, client: HttpClient, progress: Progress, traces: Traces
    ) -> None:
        self.caller = HttpCaller(client, SGLANG_PATHS, refused, self._learn_why)
        self.failure = ""
        self.load = Load()
        self._process = process
        self._client = client
        self._progress = progress
        self._traces = traces
        self._closing = False
        self._last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._log = asyncio.create_task(self._copy_log())
        self._end = asyncio.create_task(self._wait_for_the_end())
        self._asking: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, arguments: Sequence[str], env: Mapping[str, str], progress: Progress) -> Self:
        """Start the server and wait until it answers.

        Args:
            arguments: of its command line, but for where it listens.
            env: what its environment has beyond ours.
            progress: told what its log tells.

        Raises:
            LoadFailed: it ended instead; with the last lines of its log.
        """
        port, key = lasting_port(HOST), secrets.token_hex(24)
        traces = Traces.make()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "xinfer.engines.sglang.child", str(ProcessId.own().pid)),
            *(*arguments, f"--host={HOST}", f"--port={port}"),
            env=child_environment({**env, **traces.variables}),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        client = HttpClient(Origin(host=HOST, port=port), NAME, {"authorization": f"Bearer {key}"})
        server = cls(process, client, progress, traces)
        try:
            assert process.stdin is not None
            process.stdin.write(f"{key}\n".encode())
            process.stdin.close()
            await server._become_ready()
        except BaseException:
            await server.close()
            raise
        return server

    async def post(self, path: str, body: bytes) -> Answer:
        """Its answer to an order.

        Raises:
            EndpointFailed: there is none.
        """
        return await self._client.post(path, body)

    async def close(self) -> None:
        """End the server and whatever it has started."""
        self._closing = True
        if self._asking is not None:
            self._asking.cancel()
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            family = psutil.Process(self._process.pid).children(recursive=True)
            self._process.terminate()
        try:
            async with asyncio.timeout(CLOSE_GRACE_S):
                await asyncio.shield(self._end)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._end
        for child in family:
            with contextlib.suppress(psutil.Error):
                child.kill()
        self._log.cancel()
        self._client.close()
        psutil.wait_procs(family, timeout=CLOSE_GRACE_S)
        self._traces.remove()

    async def _become_ready(self) -> None:
        while not self.failure:
            with contextlib.suppress(EndpointFailed):  # it does not listen yet
                if (await self._client.get(READY_PATH)).status == 200:
                    self._traces.note(self._process.pid)
                    self._asking = asyncio.create_task(self._keep_asking())
                    return
            await asyncio.wait((self._end,), timeout=ASK_S)
        raise LoadFailed(self.failure)

    async def _learn_why(self) -> None:
        """Wait until ``failure`` has the reason why it answers no more, if that is because it has ended."""
        await asyncio.wait((self._end,), timeout=END_S)

    async def _wait_for_the_end(self) -> None:
        status = await self._process.wait()
        if self._closing:
            return
        await asyncio.wait((self._log,), timeout=LAST_WORDS_S)
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        self.failure = "\n".join((f"{NAME} ended with {how}:", *self._last_lines))

    async def _copy_log(self) -> None:
        """To our own output, which is the replica's log; progress is read from it on the way."""
        assert self._process.stdout is not None
        async for line in _lines(self._process.stdout):
            print(line, flush=True)  # noqa: T201  the log of the replica
            if not any(noise in line for noise in NOISE):
                self._last_lines.append(line)
            for mark, stage, fraction in STAGES:
                if mark in line:
                    self._progress(stage, fraction)

    async def _keep_asking(self) -> None:
        """How busy it is, as long as it is busy."""
        while True:
            await asyncio.sleep(BUSY_ASK_S)
            if not self.caller.running:
                self.load = Load()
                continue
            with contextlib.suppress(EndpointFailed, msgspec.MsgspecError):  # then what it said last has to do
                said = await self._client.get(LOADS_PATH)
                self.load = summed(msgspec.json.decode(said.body, type=Loads).loads)


def summed(ranks: Sequence[RankLoad]) -> Load:
    """The load of all its schedulers together; of their caches, the mean."""
    return Load(
        running=sum(rank.num_running_reqs for rank in ranks),
        queued=sum(rank.num_waiting_reqs for rank in ranks),
        tokens_queued=sum(rank.num_waiting_uncached_tokens for rank in ranks),
        kv_usage=sum(rank.token_usage for rank in ranks) / max(1, len(ranks)),
        tokens_per_s=sum(rank.gen_throughput for rank in ranks),
    )


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """Lines however long; a progress bar's returns count as ends."""
    rest = b""
    while data := await stream.read(64 * 1024):
        *whole, rest = (rest + data).replace(b"\r", b"\n").split(b"\n")
        for line in whole:
            if line:
                yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")
