"""The installed commands against a server that is really there: ``xinfer-local`` with the echo engine."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from xinfer.processes import free_port

BIN = Path(sys.executable).parent
START_S = 60
COMMAND_S = 120


class Server:
    """A running ``xinfer-local``, and the commands that talk to it."""

    def __init__(self, home: Path) -> None:
        self.port = free_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("XINFER_", "XOSCAR_"))},
            "XINFER_HOME": str(home),
            "XINFER_TOKEN_FILE": str(home / "token"),
            "XINFER_ENDPOINT": self.url,
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        self.log = home / "xinfer-local.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(BIN / "xinfer-local"), "-H", "127.0.0.1", "-p", str(self.port)],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_S
        pause = threading.Event()
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self.log.read_text()
            with contextlib.suppress(httpx.TransportError):
                health = httpx.get(f"{self.url}/ready", trust_env=False)
                workers = httpx.get(f"{self.url}/v1/workers", trust_env=False)
                if health.is_success and workers.is_success and workers.json():
                    return
            pause.wait(0.05)
        pytest.fail(f"xinfer-local is not ready after {START_S} s:\n{self.log.read_text()}")

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(COMMAND_S)

    def run(self, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / "xinfer"), *args],
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_S,
        )

    def start(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(BIN / "xinfer"), *args],
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def uids(self) -> list[str]:
        return [model["id"] for model in json.loads(self.run("list", "--json").stdout)["data"]]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("home"))
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


def test_a_model_is_launched_shown_spoken_to_and_terminated(server):
    launched = server.run("launch", "echo", "-u", "parrot", "--replica", "2")
    assert launched.returncode == 0, launched.stderr
    assert "parrot is ready." in launched.stdout
    assert server.uids() == ["parrot"]

    status = server.run("status").stdout
    assert "parrot-0" in status
    assert "parrot-1" in status

    said = server.run("chat", stdin="Polly wants a cracker\n")
    assert (said.returncode, said.stdout) == (0, "Polly wants a cracker\n")
    continued = server.run("generate", "parrot", "--max-tokens", "2", stdin="one two three\n")
    assert (continued.returncode, continued.stdout.split()) == (0, ["one", "two"])

    assert server.run("terminate", "parrot").returncode == 0
    assert server.run("chat", "parrot", stdin="Hello\n").returncode == 1


def test_the_printed_python_lines_work_as_they_stand(server):
    launched = server.run("launch", "-n", "echo", "-u", "snippet")
    lines = launched.stdout.partition("pip install openai):\n")[2].splitlines()
    program = "\n".join(line.removeprefix("  ") for line in lines)
    done = subprocess.run(
        [sys.executable, "-c", program], env=server.env, capture_output=True, text=True, check=False, timeout=COMMAND_S
    )
    assert done.stdout == "Hello!\n", done.stderr
    server.run("terminate", "snippet")


def test_a_failing_engine_gives_its_own_reason(server):
    failed = server.run("launch", "echo", "-u", "broken", "--fail-load", "no such weights")
    assert failed.returncode == 1
    assert "broken could not be launched" in failed.stderr
    assert "no such weights" in failed.stderr
    assert "FAILED" in server.run("status").stdout
    assert server.run("terminate", "broken").returncode == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["launch", "nothing-of-that-name"], "nothing-of-that-name"),
        (["launch", "echo", "--wings", "2"], "wings"),
        (["launch", "echo", "-en", "steam"], "steam"),
        (["launch", "echo", "--worker-ip", "10.9.9.9"], "10.9.9.9"),
        (["launch", "/nowhere/at-all"], "/nowhere/at-all"),
        (["terminate", "unheard-of"], "unheard-of"),
    ],
)
def test_what_cannot_be_is_refused_by_name(server, words, says):
    refused = server.run(*words)
    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: ")
    assert says in refused.stderr


def test_a_cancelled_launch_is_gone(server):
    with server.start("launch", "echo", "-u", "late", "--load-delay-s", "600") as launching:
        seen = ""
        while "loading" not in seen and "STARTING" not in seen:
            seen = server.run("status").stdout.partition("Models")[2].partition("late")[2]
        launching.send_signal(signal.SIGINT)
        _, complaint = launching.communicate("y\n", timeout=COMMAND_S)
    assert launching.returncode == 1
    assert "The launch of late is cancelled." in complaint
    assert "late" not in server.uids()
