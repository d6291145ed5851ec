import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from xinfer.processes import (
    ProcessId,
    claimed,
    first_error,
    free_port,
    host_id,
    log_tail,
    read_record,
    runtime_directory,
    spawn,
    write_atomically,
    write_record,
)

PATIENCE_S = 30.0

SLEEPER = "print('ready', flush=True); import time; time.sleep(1000)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
print(child.pid, flush=True)
time.sleep(1000)
"""
STARTS_ONE_MORE_AT_THE_END = """
import signal, subprocess, sys, time
def begin(*_):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    print(child.pid, flush=True)
signal.signal(signal.SIGTERM, begin)
print("ready", flush=True)
while True:
    time.sleep(1000)
"""


@pytest.fixture
def start():
    """Starts Python with a program, and returns once it has written its first line, which is ``process.first``."""
    started = []

    def start(program):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        started.append(process)
        process.first = process.stdout.readline().strip()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def eventually(condition):
    """Wait for what another process does, which tells nobody."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- identity ---------------------------------------------------------------------------------------------------------


def test_a_process_is_known_by_pid_and_start(start):
    process = start(SLEEPER)
    identity = ProcessId.of(process.pid)
    assert identity.alive()
    assert ProcessId.own() == ProcessId.of(os.getpid())
    assert ProcessId.own().alive()


def test_a_later_process_with_the_same_pid_is_another_one(start):
    process = start(SLEEPER)
    earlier = ProcessId(process.pid, ProcessId.of(process.pid).started - 60.0)
    assert not earlier.alive()
    earlier.send(signal.SIGKILL)
    asyncio.run(earlier.end(0.0))
    assert process.poll() is None


def test_what_has_ended_is_not_alive_even_before_its_parent_has_noticed(start):
    process = start("print('ready', flush=True); input()")
    identity = ProcessId.of(process.pid)
    identity.send(signal.SIGKILL)
    eventually(lambda: not identity.alive())
    assert process.returncode is None  # nobody has waited for it: it is a zombie
    process.wait()
    assert not identity.alive()
    assert ProcessId.of(process.pid) is None
    identity.send(signal.SIGKILL)  # harmless


# --- ending -----------------------------------------------------------------------------------------------------------


def test_end_asks_first(start):
    process = start("import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); " + SLEEPER)
    identity = ProcessId.of(process.pid)
    asyncio.run(identity.end(PATIENCE_S))
    assert not identity.alive()


def test_end_kills_what_does_not_listen(start):
    process = start(STUBBORN)
    identity = ProcessId.of(process.pid)
    assert not asyncio.run(identity.gone(0.0))
    asyncio.run(identity.end(0.05))
    assert not identity.alive()


@pytest.mark.parametrize("stopped", [False, True])
def test_end_leaves_no_descendant_behind(start, stopped):
    process = start(PARENT)
    child = ProcessId.of(int(process.first))
    if stopped:
        process.send_signal(signal.SIGSTOP)
    asyncio.run(ProcessId.of(process.pid).end(0.2))
    eventually(lambda: not child.alive())


def test_end_finds_what_was_started_after_it_asked(start):
    process = start(STARTS_ONE_MORE_AT_THE_END)
    identity = ProcessId.of(process.pid)

    async def end():
        ending = asyncio.create_task(identity.end(1.0))
        child = ProcessId.of(int(await asyncio.to_thread(process.stdout.readline)))
        await ending
        return child

    child = asyncio.run(end())
    eventually(lambda: not child.alive())


def test_end_of_what_is_gone_is_nothing(start):
    process = start(SLEEPER)
    identity = ProcessId.of(process.pid)
    process.kill()
    process.wait()
    asyncio.run(identity.end(PATIENCE_S))


# --- starting ---------------------------------------------------------------------------------------------------------


def test_a_spawned_process_is_out_of_reach_of_our_signals_and_writes_to_its_log(tmp_path):
    log = tmp_path / "deep" / "log"
    for word in ("one", "two"):
        said = f"'{word}', os.getpgid(0), os.getsid(0), os.getcwd(), sys.stdin.read(), os.environ['A']"
        program = f"import os, sys; print({said})"
        process = spawn([sys.executable, "-c", program], env=os.environ | {"A": "b"}, log=log, cwd=tmp_path)
        assert process.wait(PATIENCE_S) == 0
        assert log_tail(log).splitlines()[-1].split() == [word, str(process.pid), str(os.getsid(0)), str(tmp_path), "b"]
    assert log.read_text().startswith("one")


def in_a_terminal(program: str) -> str:
    """What a program says whose controlling terminal is a new one. It may read that: its words there are "typed"."""
    leader, follower = os.openpty()
    acquire = f"import fcntl, os, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.write({leader}, b'typed\\n')"
    try:
        return subprocess.run(
            [sys.executable, "-c", f"{acquire}\n{program}"],
            stdin=follower,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=[leader],
            timeout=60,
            check=True,
        ).stdout
    finally:
        os.close(leader)
        os.close(follower)


def test_a_process_that_leaves_its_terminal_cannot_be_stopped_by_it(tmp_path):
    child = "from xinfer.processes import leave_terminal; {first}; print(open('/dev/tty').readline())"
    program = """
import os, time
from pathlib import Path
from xinfer.processes import spawn
process = spawn([{python!r}, "-c", {child!r}], env=dict(os.environ), log=Path({log!r}))
deadline = time.monotonic() + 50
state = None
while state not in ("Z", "T") and time.monotonic() < deadline:
    time.sleep(0.05)
    state = Path(f"/proc/{{process.pid}}/stat").read_text().rpartition(")")[2].split()[0]
print(state)
process.kill()
process.wait()
"""
    states = {}
    for name, first in (("stays", "pass"), ("leaves", "leave_terminal()")):
        log = tmp_path / name
        text = program.format(python=sys.executable, child=child.format(first=first), log=str(log))
        states[name] = in_a_terminal(text).strip()
    assert states == {"stays": "T", "leaves": "Z"}
    assert "No such device" in (tmp_path / "leaves").read_text()


def test_the_leader_of_a_session_keeps_its_terminal():
    program = "from xinfer.processes import leave_terminal; leave_terminal(); print(open('/dev/tty').readline())"
    assert in_a_terminal(program).strip() == "typed"


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_tail_of_a_log_is_its_last_lines(tmp_path):
    log = tmp_path / "log"
    assert log_tail(log) == ""
    log.write_bytes(b"".join(b"line %d\n" % number for number in range(100)) + b"caf\xc3\xa9 \xff\n\n")
    assert log_tail(log, 2) == "line 99\ncafé \ufffd"
    assert len(log_tail(log).splitlines()) == 20
    log.write_bytes(b"x" * 1_000_000)
    assert log_tail(log, limit=100) == "x" * 100
    assert log_tail(tmp_path) == ""


def test_readers_see_the_old_content_or_the_new_one(tmp_path):
    path = tmp_path / "deep" / "file"
    contents = [letter * 200_000 for letter in (b"a", b"b")]
    write_atomically(path, contents[0])
    stop = threading.Event()
    seen = set()

    def read():
        while not stop.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(50):
        write_atomically(path, contents[number % 2])
    stop.set()
    reader.join()
    assert seen <= set(contents)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path):
    taken = tmp_path / "taken"
    (taken / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_atomically(taken, b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


class Record(msgspec.Struct, frozen=True):
    pid: int
    name: str = ""


def test_a_record_is_read_as_it_was_written(tmp_path):
    write_record(tmp_path / "record.json", Record(1, "ä"))
    assert read_record(tmp_path / "record.json", Record) == Record(1, "ä")
    assert (tmp_path / "record.json").read_text().startswith("{\n")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "one"}', b'{"pid": 1, "name": "\xff"}', b"\x00" * 100])
def test_a_record_that_is_not_one_counts_as_missing(tmp_path, content):
    (tmp_path / "record.json").write_bytes(content)
    assert read_record(tmp_path / "record.json", Record) is None
    assert read_record(tmp_path / "nonesuch.json", Record) is None
    assert read_record(tmp_path, Record) is None


# --- locks and places -------------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from xinfer.processes import claimed
with claimed(Path(sys.argv[1])) as ours:
    print(ours, flush=True)
    time.sleep(1000)
"""


def test_one_process_holds_a_claim_and_it_dies_with_the_process(tmp_path):
    path = tmp_path / "deep" / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "True\n"
        with claimed(path) as ours:
            assert not ours
    finally:
        holder.kill()
        holder.communicate(timeout=PATIENCE_S)
    with claimed(path) as ours:
        assert ours
        with claimed(path) as again:
            assert not again
    with claimed(path) as ours:
        assert ours


def test_a_free_port_can_be_bound():
    assert 0 < free_port("127.0.0.1") < 65536


def test_this_machine_has_one_name():
    assert host_id() == host_id()
    code = "from xinfer.processes import host_id; print(host_id())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert other.stdout.strip() == host_id()


def test_sockets_live_where_only_this_user_gets_in(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path = runtime_directory()
    assert path == runtime_directory() == Path(tmp_path / f"xinfer-{os.getuid()}")
    assert path.stat().st_mode & 0o777 == 0o700


def test_the_first_error_of_a_log_is_the_one_that_caused_the_others(tmp_path):
    log = tmp_path / "log"
    assert first_error(log) == ""
    log.write_text(
        "WARNING ImportError: no module named 'speed', going on without\n"
        "ERROR went wrong, without an exception\n"
        "(Worker pid=7) ERROR 11-20 16:26:22 [executor.py:953] RuntimeError: The size of tensor a (256) must match\n"
        "(Core pid=6) ERROR 11-20 16:26:23 [core.py:1] Exception: see the root cause above\n"
        "RuntimeError: see the root cause above\n"
    )
    assert first_error(log) == "RuntimeError: The size of tensor a (256) must match"
    assert first_error(log, since=log.read_text().index("(Core")) == "Exception: see the root cause above"
    assert first_error(log, since=log.stat().st_size) == first_error(log, since=10**9) == ""
