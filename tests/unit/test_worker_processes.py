import asyncio
import importlib.metadata
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from xinfer import plugins
from xinfer.ops import Kind
from xinfer.processes import ProcessId, write_record
from xinfer.protocol import FAILURE_FILE, LOG_FILE, FailureRecord, LaunchOrder
from xinfer.spec import Deployment, Format, ModelSpec
from xinfer.worker.offers import engine_offers
from xinfer.worker.processes import ReplicaProcess, explain

SPEC = ModelSpec(name="m", kind=Kind.LLM, source="", format=Format.NONE)
ORDER = LaunchOrder(
    replica_id="m-0",
    instance="i1",
    generation=1,
    deployment=Deployment(model_uid="m", spec=SPEC, engine="echo"),
    slices=(),
    threads=1,
    host="127.0.0.1",
    lease_s=1.0,
)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (None, "how it ended is not known"),
        (0, "exited with status 0 without being asked"),
        (3, "exited with status 3"),
        (-signal.SIGKILL, "killed by SIGKILL; most often that is the kernel, out of memory"),
        (-signal.SIGSEGV, "killed by SIGSEGV; that is a crash in native code"),
        (-signal.SIGTERM, "killed by SIGTERM"),
        (-63, "killed by signal 63"),
    ],
)
def test_exit_statuses_are_explained(status: int | None, words: str) -> None:
    assert words in explain(status)


def started(folder: Path, code: str) -> ReplicaProcess:
    """A process in place of a replica's, with a group of its own as ``spawn`` gives it."""
    with (folder / LOG_FILE).open("w") as log:
        child = subprocess.Popen([sys.executable, "-c", code], stdout=log, stderr=log, process_group=0)
    child.returncode = 0
    found = ProcessId.of(child.pid)
    assert found
    return ReplicaProcess(folder, ORDER, found)


def test_the_autopsy_has_the_status_and_the_log(tmp_path: Path) -> None:
    process = started(tmp_path, "print('one'); print('two'); raise SystemExit(3)")
    assert asyncio.run(process.gone(30))
    found = asyncio.run(process.autopsy())
    assert found.reason.startswith("its process exited with status 3")
    assert found.reason.endswith("\nLast lines of its log:\none\ntwo")
    assert not found.load_error


def test_the_engines_own_reason_comes_first(tmp_path: Path) -> None:
    write_record(tmp_path / FAILURE_FILE, FailureRecord(reason="no such file"))
    process = started(tmp_path, "pass")
    assert asyncio.run(process.gone(30))
    found = asyncio.run(process.autopsy())
    assert found.reason == "no such file"
    assert found.load_error


def test_errors_of_requests_before_it_broke_are_not_taken_for_the_cause(tmp_path: Path) -> None:
    lines = ("ERROR ValueError: a request asked for 21", "ERROR MemoryError: no room")
    process = started(tmp_path, f"print({lines[0]!r}); print({lines[1]!r})")
    assert asyncio.run(process.gone(30))
    for logged_well, cause in ((0, "ValueError: a request asked for 21"), (len(lines[0]) + 1, "MemoryError: no room")):
        write_record(tmp_path / FAILURE_FILE, FailureRecord(reason="the core died", logged_well=logged_well))
        reason = asyncio.run(process.autopsy()).reason
        assert reason.startswith(f"the core died\nFirst error in its log: {cause}\nLast lines")


def test_what_a_dead_process_started_dies_with_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    sleeper = f"[{sys.executable!r}, '-c', 'import time; time.sleep(600)']"
    code = f"import subprocess, time; pid = subprocess.Popen({sleeper}).pid; open({str(pipe)!r}, 'w').write(str(pid)); "
    process = started(tmp_path, f"{code}time.sleep(600)")
    child = ProcessId.of(int(pipe.read_text()))
    assert child
    os.kill(process.process.pid, signal.SIGKILL)
    assert asyncio.run(process.gone(30))
    assert child.alive()
    assert "SIGKILL" in asyncio.run(process.autopsy()).reason
    assert asyncio.run(child.gone(30))


def test_a_pid_that_belongs_to_somebody_else_is_left_alone(tmp_path: Path) -> None:
    other = started(tmp_path, "import time; time.sleep(600)")
    impostor = ReplicaProcess(tmp_path, ORDER, ProcessId(other.process.pid, other.process.started - 1000))
    impostor.kill()
    assert other.process.alive()
    other.kill()
    assert asyncio.run(other.gone(30))
    asyncio.run(other.autopsy())
    assert not psutil.pid_exists(other.process.pid)


def test_a_broken_engine_is_an_offer_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        @classmethod
        def available(cls) -> None:
            raise RuntimeError("half installed")

    monkeypatch.setattr("xinfer.plugins.engines", lambda: {"half": Broken})
    monkeypatch.setattr("xinfer.plugins.broken_engines", lambda: {"gone": "pkg:ENGINE cannot be loaded: ImportError"})
    offers = engine_offers()
    assert offers["half"].reason == "RuntimeError: half installed"
    assert not offers["half"].ok
    assert "cannot be loaded" in offers["gone"].reason


def test_an_engine_of_a_third_party_that_cannot_be_imported_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("theirs", "no_such_package:ENGINE", plugins.ENGINE_GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
    plugins._find_engines.cache_clear()
    try:
        offers = engine_offers()
    finally:
        plugins._find_engines.cache_clear()
    assert offers["echo"].ok
    assert "no_such_package:ENGINE cannot be loaded: ModuleNotFoundError" in offers["theirs"].reason
