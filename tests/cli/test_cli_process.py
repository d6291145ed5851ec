"""The ``xinfer`` command as a process: what it imports, and what ctrl-C does."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

XINFER = Path(sys.executable).with_name("xinfer")
IMPORTS = """
import sys
from xinfer.cli.main import main
sys.argv = ["xinfer", "--help"]
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""
LOGS = """
import logging
from xinfer.cli import serve
serve._start("INFO")
logging.getLogger("xinfer.worker").info("built %s", "a" * 200)
"""


def test_a_log_that_goes_into_a_file_has_whole_lines():
    done = subprocess.run([sys.executable, "-c", LOGS], capture_output=True, text=True, check=True, timeout=60)
    (line,) = done.stderr.splitlines()
    assert line.endswith(f" INFO xinfer.worker: built {'a' * 200}")


def test_help_is_quick_because_it_imports_no_server():
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True, timeout=60)
    assert "launch" in done.stdout
    loaded = set(done.stderr.split())
    assert loaded.isdisjoint({"xoscar", "fastapi", "uvicorn", "sqlalchemy", "torch", "numpy"})


def read_until(stream, text):
    """Read up to and including ``text``; what was read."""
    seen = ""
    while text not in seen:
        piece = stream.read(1)
        assert piece, f"ended without {text!r}: {seen}"
        seen += piece
    return seen


@pytest.fixture
def start(api):
    started = []

    def start(*args):
        process = subprocess.Popen(
            [str(XINFER), *args, "-e", api.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()


@pytest.fixture
def launching(api, answer, start):
    """A launch that is half done and stays so."""
    api.on("POST", "/v1/models?wait_ready=false", answer(body={"model_uid": "m"}))
    api.on("GET", "/v1/models/m/progress", answer(body={"progress": 0.5, "stage": "loading"}))
    api.on("POST", "/v1/models/m/cancel", answer(body={}))
    process = start("launch", "m")
    api.wait_for("GET", "/v1/models/m/progress")
    process.send_signal(signal.SIGINT)
    read_until(process.stderr, "Cancel the launch of m?")
    return process


def test_ctrl_c_cancels_a_launch_when_told_so(api, launching):
    _, complaint = launching.communicate("y\n", timeout=20)
    api.wait_for("POST", "/v1/models/m/cancel")
    assert launching.returncode == 1
    assert "The launch of m is cancelled." in complaint
    assert "Traceback" not in complaint


def test_a_launch_goes_on_when_it_is_not_to_be_cancelled(api, answer, launching):
    api.on("GET", "/v1/models/m/progress", answer(body={"progress": 1.0, "done": True}))
    api.on("GET", "/v1/models", answer(body={"data": [{"id": "m", "model_type": "rerank", "status": "ready"}]}))
    said, _ = launching.communicate("n\n", timeout=20)
    assert launching.returncode == 0
    assert "m is ready." in said
    assert "/v1/rerank" in said


def test_a_second_ctrl_c_leaves_the_launch_running(api, launching):
    launching.send_signal(signal.SIGINT)
    _, complaint = launching.communicate(timeout=20)
    assert launching.returncode == 1
    assert "goes on in the background" in complaint
    assert "xinfer status" in complaint
    assert not any(asked.path.endswith("/cancel") for asked in api.asked)


def test_a_launch_that_others_terminate_says_so(api, answer, start):
    api.on("POST", "/v1/models?wait_ready=false", answer(body={"model_uid": "m"}))
    gone = answer(status=404, body={"error": {"message": "no model 'm' is launched", "code": "model_not_found"}})
    api.on("GET", "/v1/models/m/progress", answer(body={"progress": 0.5, "stage": "loading"}), gone)
    process = start("launch", "m")
    _, complaint = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "m was terminated before it was ready." in complaint


def test_ctrl_c_stops_an_answer_and_not_the_program(api, answer, start):
    word = json.dumps({"choices": [{"delta": {"content": "word "}}]})
    api.on(
        "POST",
        "/v1/chat/completions",
        answer(events=(word,), endless=True),
        answer(events=('{"choices": [{"delta": {"content": "done"}}]}', "[DONE]")),
    )
    process = start("chat", "m")
    process.stdin.write("Talk for ever\n")
    process.stdin.flush()
    read_until(process.stdout, "word")
    process.send_signal(signal.SIGINT)
    read_until(process.stderr, "(stopped)")
    assert api.client_gone.wait(20)
    rest, complaint = process.communicate("Stop\n/exit\n", timeout=20)
    assert process.returncode == 0
    assert rest.endswith("done\n")
    assert "Traceback" not in complaint
    spoken = [message["content"] for message in api.asked[-1].body["messages"]]
    assert spoken[0] == "Talk for ever"
    assert spoken[1].startswith("word")
    assert spoken[2] == "Stop"
