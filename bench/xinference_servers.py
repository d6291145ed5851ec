"""The two servers beside each other: how each is started, asked to launch a model, weighed and ended."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from xinference_client import HOST, ask
from xinference_models import Model

EQUAL_FOR_BOTH = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
MIB = 1 << 20
LAUNCH_PATH = "/v1/models?wait_ready=true"
POLL_S = 0.02
SETTLE_S = 2.0
START_LIMIT_S = 180.0
STOP_LIMIT_S = 30.0


@dataclass(frozen=True)
class Memory:
    """Of all processes of a server together, MiB. Shared pages count once per process in ``rss``, once in ``pss``."""

    rss: float
    pss: float
    processes: int

    def __sub__(self, other: "Memory") -> "Memory":
        return Memory(self.rss - other.rss, self.pss - other.pss, self.processes - other.processes)


@dataclass(frozen=True)
class Product:
    """A server as a user starts it."""

    name: str
    is_ours: bool
    python: Path
    """Of the environment that it is installed in."""
    command: str
    ready_path: str
    environment: dict[str, str]
    places: dict[str, str]
    """Variables that name files or folders, and which ones under the home of a run."""
    launch_body: Callable[[Model], dict[str, Any]]
    """What launches a local folder on the CPU."""

    def versions(self) -> str:
        """Of the server, and of the libraries that do the arithmetic."""
        names = (self.name.lower(), "torch", "transformers", "sentence-transformers")
        program = f"from importlib.metadata import version\nfor name in {names}: print(name, version(name))"
        asked = subprocess.run([self.python, "-c", program], check=True, capture_output=True, text=True)
        return ", ".join(asked.stdout.splitlines())


ROOTS = {"XINFER_MODEL_ROOTS": "/"}
"""The models lie in folders of Python packages and in temporary ones."""


def xinfer() -> Product:
    """The one in the environment that runs this benchmark."""

    def launch_body(model: Model) -> dict[str, Any]:
        return _common_launch_body(model) | {"model_name": model.name}

    places = {"XINFER_HOME": ".", "XINFER_TOKEN_FILE": "token"}
    return Product("xinfer", True, Path(sys.executable), "xinfer-local", "/ready", ROOTS, places, launch_body)


def xinference(python: Path) -> Product:
    """The one in the environment of ``python``, without what would need a network or a login."""

    def launch_body(model: Model) -> dict[str, Any]:
        body = _common_launch_body(model) | {"model_name": model.xinference_name}
        if model.op == "embedding":
            return body | {"model_type": "embedding"}
        spec = {"model_format": "pytorch", "model_size_in_billions": "0_6", "quantization": "none"}
        return body | spec | {"max_num_seqs": 32}  # as many as xinfer runs at once by itself; its default is 16

    environment = {"XINFERENCE_ENABLE_VIRTUAL_ENV": "0", "XINFERENCE_AUTH_ADVANCED": "0"}
    places = {"XINFERENCE_HOME": "."}
    command = "xinference-local"
    return Product("Xinference", False, python, command, "/v1/models", environment, places, launch_body)


def _common_launch_body(model: Model) -> dict[str, Any]:
    engine = "transformers" if model.op == "chat" else "sentence_transformers"
    return {"model_uid": model.name, "model_engine": engine, "model_path": str(model.folder), "n_gpu": None}


class Server:
    """One running server."""

    def __init__(self, product: Product, home: Path) -> None:
        self.product = product
        self.port = _free_port()
        self._home = home
        self._log = home / "console.log"
        self._process: psutil.Popen | None = None

    def start(self) -> float:
        """Return once it answers: seconds that it took.

        Raises:
            RuntimeError: it ended, or took too long; with the end of what it printed.
        """
        self._home.mkdir(parents=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("XINFER")}
        own = {name: str(self._home / folder) for name, folder in self.product.places.items()}
        environment = inherited | EQUAL_FOR_BOTH | self.product.environment | own | {"TMPDIR": str(self._home)}
        command = [str(self.product.python.with_name(self.product.command)), "-H", HOST, "-p", str(self.port)]
        started = time.perf_counter()
        with self._log.open("wb") as log:
            self._process = psutil.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )
        while not self._answers():
            if self._process.poll() is not None or time.perf_counter() - started > START_LIMIT_S:
                raise RuntimeError(f"{self.product.name} did not start:\n{self.printed()}")
            time.sleep(POLL_S)
        return time.perf_counter() - started

    async def launch(self, model: Model) -> float:
        """Seconds from the launch to the end of the first answered request."""
        started = time.perf_counter()
        await ask(self.port, LAUNCH_PATH, json.dumps(self.product.launch_body(model)).encode())
        await ask(self.port, model.path, model.bodies()[0])
        return time.perf_counter() - started

    def terminate(self, model: Model) -> None:
        """End a model, and return once its processes are gone."""
        before = len(self._processes())
        self._request("DELETE", f"/v1/models/{model.name}")
        deadline = time.perf_counter() + STOP_LIMIT_S
        while len(self._processes()) >= before:
            if time.perf_counter() > deadline:
                raise RuntimeError(f"{self.product.name} did not end {model.name}:\n{self.printed()}")
            time.sleep(POLL_S)

    def memory(self) -> Memory:
        """What all of its processes hold now."""
        rss = pss = 0
        processes = self._processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                full = process.memory_full_info()
                rss += full.rss
                pss += full.pss
        return Memory(rss / MIB, pss / MIB, len(processes))

    def cpu_s(self) -> float:
        """CPU time that all of its processes have used so far, seconds."""
        used = 0.0
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used += times.user + times.system
        return used

    def stop(self) -> None:
        """End every process that it started: politely at first."""
        if self._process is None:
            return
        started = self._processes()
        if self._process.poll() is None:
            self._process.terminate()
        _, left = psutil.wait_procs(started, timeout=STOP_LIMIT_S)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=STOP_LIMIT_S)
        with contextlib.suppress(ProcessLookupError):  # where the first one crashed, and left others alone
            os.killpg(self._process.pid, signal.SIGKILL)

    def printed(self) -> str:
        """The end of what it wrote to its console."""
        return self._log.read_text(errors="replace")[-4000:]

    def _answers(self) -> bool:
        try:
            return self._request("GET", self.product.ready_path) == 200
        except OSError:
            return False

    def _request(self, method: str, path: str) -> int:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=STOP_LIMIT_S)
        with contextlib.closing(connection):
            connection.request(method, path)
            return connection.getresponse().status

    def _processes(self) -> list[psutil.Process]:
        """All of them. No parent ends before its children while the server runs."""
        try:
            return [self._process, *self._process.children(recursive=True)] if self._process else []
        except psutil.NoSuchProcess:
            return []


def settle() -> None:
    """Let a server finish what it does after it has said that it is ready, before its memory is weighed."""
    time.sleep(SETTLE_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port
