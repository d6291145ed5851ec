"""What SGLang's server leaves behind is removed by whoever ends it, or by the next one."""

import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from xinfer.engines.sglang.traces import LIST, PREFIX, Traces
from xinfer.processes import runtime_directory

CHILD = """
import mmap, sys
with open(sys.argv[1], "w+b") as file:
    file.truncate(mmap.PAGESIZE)
    with mmap.mmap(file.fileno(), mmap.PAGESIZE):
        print("mapped", flush=True)
        sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="this system has no files in shared memory")
def test_temporary_files_and_shared_memory_go_with_the_server():
    traces = Traces.make()
    assert traces.variables["TMPDIR"] == str(traces.folder)
    (traces.folder / "tmp1234").write_text("a socket")
    shared = Path(f"/dev/shm/xinfer-test-{traces.folder.name}")
    argv = [
        sys.executable,
        "-c",
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}, sys.argv[1]])",
    ]
    with subprocess.Popen([*argv, shared], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        server.stdout.readline()
        traces.note(server.pid)
        server.stdin.close()
    assert shared.stat().st_size == mmap.PAGESIZE
    assert (traces.folder / LIST).read_text() == f"{shared}\n"
    traces.remove()
    assert not shared.exists()
    assert not traces.folder.exists()


def test_what_a_killed_process_left_is_removed_by_the_next_one():
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    left = runtime_directory() / f"{PREFIX}{gone.pid}-0123abcd"
    left.mkdir()
    own, other = Traces.make(), runtime_directory() / "something-else"
    other.mkdir()
    Traces.make()
    assert not left.exists()
    assert own.folder.exists()
    assert other.exists()
