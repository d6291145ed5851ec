"""Server commands as a user starts them: processes of their own, on free ports, in homes of their own."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
import openai
import psutil
import pytest

from xinfer.processes import free_port, log_tail

BIN = Path(sys.executable).parent
PATIENCE_S = 60.0
"""For everything that is waited for: it never takes so long unless it is broken."""

T = TypeVar("T")


def wait_for(condition: Callable[[], T], what: str, patience_s: float = PATIENCE_S) -> T:
    """The first truthy value of a condition on other processes, for which there is no event to wait on."""
    deadline = time.monotonic() + patience_s
    pause = threading.Event()
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {patience_s:g} s")
        pause.wait(0.02)
    return value


class Program:
    """A server command that was started."""

    def __init__(self, argv: list[str], env: dict[str, str], log: Path) -> None:
        self.argv = argv
        self.log = log
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                argv, env=env, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, process_group=0
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """``kill -9``, of this process alone."""
        self._process.kill()
        self._process.wait()

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        return self._process.wait(PATIENCE_S)

    def stop(self) -> int:
        if self.running:
            self.send(signal.SIGTERM)
        return self.wait()


class Site:
    """A folder with homes in it, one HTTP port, and what runs there."""

    def __init__(self, root: Path, **settings: object) -> None:
        self.root = root
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("XINFER_", "XOSCAR_"))}
        self.env = {
            **inherited,
            "XINFER_HOME": str(root / "home"),
            "XINFER_TOKEN_FILE": str(root / "token"),
            "XINFER_MODEL_ROOTS": "/",  # wherever pytest has its folders
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            **_variables(settings),
        }
        self.programs: list[Program] = []
        self._http = httpx.Client()
        self.move()

    def move(self) -> None:
        """To another port, from the next program on."""
        self._http.close()
        self.port = free_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{self.port}"
        self.env["XINFER_ENDPOINT"] = self.url
        self._http = httpx.Client(base_url=self.url, timeout=PATIENCE_S, trust_env=False)

    # Programs.

    def serve(self, command: str, *args: str, home: str = "home", **settings: object) -> Program:
        """Start a server command in one of the homes."""
        argv = [str(BIN / command), *args]
        env = {**self.env, "XINFER_HOME": str(self.root / home), **_variables(settings)}
        program = Program(argv, env, self.root / f"{command}.log")
        self.programs.append(program)
        return program

    def local(self, *args: str, **settings: object) -> Program:
        """``xinfer-local`` on the port of this site, once it is ready."""
        program = self.serve("xinfer-local", "-p", str(self.port), *args, **settings)
        self.until_ready(program)
        wait_for(lambda: self.get_or_none("/v1/workers"), "the worker of xinfer-local")
        return program

    def until_ready(self, program: Program) -> None:
        def ready() -> bool:
            assert program.running, log_tail(program.log)
            return self.get_or_none("/ready") is not None

        wait_for(ready, f"{program.argv[0]} serves on {self.url}")

    def run(self, *args: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        """An ``xinfer`` command, to its end."""
        return subprocess.run(
            [str(BIN / "xinfer"), *args],
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )

    def start(self, *args: str) -> "subprocess.Popen[str]":
        """An ``xinfer`` command, while it runs."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [str(BIN / "xinfer"), *args], env=self.env, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )

    def processes(self) -> list[psutil.Process]:
        """Everything that runs in a home of this site, whoever started it."""
        return [process for process in psutil.process_iter() if str(self.root) in _home_of(process)]

    def commands(self) -> list[list[str]]:
        """The command lines of all of that."""
        return [command_of(process) for process in self.processes()]

    def gateways(self) -> list[psutil.Process]:
        return [process for process in self.processes() if "xinfer.api" in command_of(process)]

    def close(self) -> list[str]:
        """End everything; the command lines of what was still there after every command had ended."""
        self._http.close()
        for program in reversed(self.programs):  # workers before their supervisor
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.stop()
        left = self.processes()
        names = [" ".join(command_of(process)) for process in left]
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=10)
        return names

    # HTTP.

    def call(self, method: str, path: str, **how: Any) -> httpx.Response:
        return self._http.request(method, path, **how)

    def get(self, path: str) -> Any:
        return self.call("GET", path).raise_for_status().json()

    def get_or_none(self, path: str) -> Any:
        """None while nobody answers, or not with success."""
        try:
            return self.get(path)
        except httpx.HTTPError:
            return None

    def launch(self, model_name: str = "echo", *, wait_ready: bool = True, **body: Any) -> str:
        params = {"wait_ready": str(wait_ready).lower()}
        answer = self.call("POST", "/v1/models", params=params, json={"model_name": model_name, **body})
        assert answer.is_success, answer.text
        return str(answer.json()["model_uid"])

    def terminate(self, uid: str) -> None:
        """And wait until its replicas are gone: they hold memory until then."""
        self.call("DELETE", f"/v1/models/{uid}").raise_for_status()
        wait_for(lambda: uid not in self.running_models(), f"{uid} is gone")

    def running_models(self) -> set[str]:
        """The models that workers have processes of."""
        workers = self.get("/v1/workers")
        return {replica["replica_id"].rpartition("-")[0] for worker in workers for replica in worker["replicas"]}

    def replicas(self, uid: str) -> list[dict[str, Any]]:
        return list(self.get(f"/v1/models/{uid}/replicas"))

    def ready_pids(self, uid: str) -> dict[str, int]:
        """replica_id -> pid of those that are READY; empty while management is away."""
        replicas = self.get_or_none(f"/v1/models/{uid}/replicas") or []
        return {replica["replica_id"]: replica["pid"] for replica in replicas if replica["state"] == "READY"}

    def until_ready_replicas(self, uid: str, count: int) -> dict[str, int]:
        def ready() -> dict[str, int]:
            pids = self.ready_pids(uid)
            return pids if len(pids) == count else {}

        return wait_for(ready, f"{count} replicas of {uid} are READY")

    def running(self) -> dict[str, int]:
        """replica_id -> requests that its engine works on, as the replicas tell the gateway."""
        metric = "xinfer_replica_requests_running{"
        lines = [line for line in self.call("GET", "/metrics").text.splitlines() if line.startswith(metric)]
        return {line.split('"')[1]: int(float(line.rpartition(" ")[2])) for line in lines}

    def client(self) -> openai.OpenAI:
        """The official client. It never tries again by itself: a failure is to be seen."""
        http = openai.DefaultHttpxClient(trust_env=False)
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, http_client=http)

    def async_client(self) -> openai.AsyncOpenAI:
        http = openai.DefaultAsyncHttpxClient(trust_env=False)
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, http_client=http)


def _variables(settings: Mapping[str, object]) -> dict[str, str]:
    return {f"XINFER_{name.upper()}": str(value) for name, value in settings.items()}


def command_of(process: psutil.Process) -> list[str]:
    """Its command line; empty once it has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _home_of(process: psutil.Process) -> str:
    try:
        return str(process.environ().get("XINFER_HOME", ""))
    except psutil.Error:
        return ""


@contextlib.contextmanager
def site_in(root: Path, **settings: object) -> Iterator[Site]:
    """A site for a ``with`` block; whatever outlives its commands is ended and reported."""
    site = Site(root, **settings)
    try:
        yield site
    finally:
        left = site.close()
    assert not left, f"left behind: {left}"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with site_in(tmp_path) as site:
        yield site


@pytest.fixture(scope="session")
def wait() -> Callable[..., Any]:
    return wait_for


@pytest.fixture(scope="session")
def open_site() -> Callable[..., contextlib.AbstractContextManager[Site]]:
    """For fixtures that outlive a test, or need settings."""
    return site_in
