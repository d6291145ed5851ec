"""``xinfer engine``, with real builds from a folder of wheels: interrupted, side by side, on a full disk."""

import contextlib
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from fakes.packages.toys import write_library, write_toys
from fakes.packages.wheels import repack

from xinfer.packages import distribution
from xinfer.worker.environments.store import EnvironmentStore

XINFER = str(Path(sys.executable).with_name("xinfer"))
UNUSED = ("scipy", "uv")
PATIENCE_S = 90


class Machine:
    """A home whose Python knows the toys' engines, and a folder of wheels with everything for them."""

    def __init__(self, root: Path, wheels: Path, installed: Path, cache: Path) -> None:
        self.home = root / "home"
        self.wheels = wheels
        self.store = EnvironmentStore(self.home / "environments")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("XINFER_", "PIP_", "UV_"))}
        self.env = {
            **kept,
            "XINFER_HOME": str(self.home),
            "XINFER_TOKEN_FILE": str(root / "token"),
            "PYTHONPATH": str(installed),
            "UV_CACHE_DIR": str(cache),
            "COLUMNS": "200",
        }

    def install(self, engine: str, *more: str) -> list[str]:
        return [XINFER, "engine", "install", engine, "--find-links", str(self.wheels), "--no-index", *more]

    def run(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            argv,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
            stdin=subprocess.DEVNULL,
        )

    def start(self, *argv: str) -> "subprocess.Popen[str]":
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, env=self.env, stdout=pipe, stderr=pipe, text=True, start_new_session=True)

    def environments(self) -> list[dict[str, Any]]:
        listed = self.run(XINFER, "engine", "list", "--json")
        assert listed.returncode == 0, listed.stderr
        rows: list[dict[str, Any]] = json.loads(listed.stdout)["environments"]
        return rows


@pytest.fixture(scope="module")
def supplies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("supplies")
    write_toys(root / "wheels", root / "installed")
    repack(root / "wheels", importlib.metadata.requires("xinfer") or (), without=UNUSED)
    return root


@pytest.fixture
def machine(tmp_path: Path, supplies: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path, supplies / "wheels", supplies / "installed", supplies / "cache")
    yield machine
    left = checks_in(machine)
    for process in left:
        process.kill()
    assert not left


@pytest.fixture
def gate(tmp_path: Path, machine: Machine, supplies: Path) -> Iterator[Path]:
    """A build that stops in its middle: when ``toylib`` is imported to check it, it reads from this pipe."""
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    machine.wheels = tmp_path / "wheels"
    shutil.copytree(supplies / "wheels", machine.wheels, copy_function=os.link)
    (machine.wheels / "toylib-1.0-py3-none-any.whl").unlink()
    write_library(machine.wheels, "1.0", body=f"open({str(fifo)!r}).read()\n")
    machine.env["UV_CACHE_DIR"] = str(tmp_path / "cache")
    return fifo


@contextlib.contextmanager
def inherited(number: int, handler: signal.Handlers) -> Iterator[None]:
    """What a child does with a signal: what these tests ignore, as under nohup, it would ignore too."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def until_checked(gate: Path) -> Any:
    """Wait until a build has come to the gate; closing the file lets it through."""
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(gate.open, "w")
        try:
            return opening.result(PATIENCE_S)
        except TimeoutError:
            os.close(os.open(gate, os.O_RDONLY | os.O_NONBLOCK))  # instead of the build, so that the thread can end
            opening.result().close()
            raise


def checks_in(machine: Machine) -> list[psutil.Process]:
    """The processes that check environments of this home."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(machine.home) in " ".join(process.info["cmdline"] or ()) and "probe" in " ".join(process.info["cmdline"])
    ]


def test_an_environment_is_built_listed_checked_and_removed(machine: Machine) -> None:
    built = machine.run(*machine.install("toy_one"))
    assert built.returncode == 0, built.stderr
    assert "toy_one 1.0 is ready in toy_one-" in built.stdout
    (row,) = machine.environments()
    assert (row["engine"], row["version"], row["state"], row["used_by"]) == ("toy_one", "1.0", "ready", [])
    assert row["size_mib"] > 50
    assert "toylib==1.0" in row["packages"]
    assert not {distribution(package) for package in row["packages"]} & set(UNUSED)
    again = machine.run(*machine.install("toy_one"))
    assert "is ready" in again.stdout
    assert machine.environments() == [row], "it was there"
    assert "works" in machine.run(XINFER, "engine", "check").stdout
    (machine.store.python(row["name"]).parents[1] / "lib").rename(machine.home / "lost")
    broken = machine.run(XINFER, "engine", "check", "toy_one")
    assert broken.returncode == 1
    assert "broken" in broken.stdout
    removed = machine.run(XINFER, "engine", "remove", row["name"])
    assert removed.returncode == 0
    assert machine.environments() == []
    assert machine.run(XINFER, "engine", "remove", "toy_one").returncode == 1


def test_what_is_compiled_is_compiled_with_the_settings_of_its_engine(machine: Machine) -> None:
    built = machine.run(*machine.install("toy_compiled"))
    assert built.returncode == 0, built.stderr
    (row,) = machine.environments()
    python = str(machine.store.python(row["name"]))
    assert machine.run(python, "-c", "import toysource; print(toysource.SETTINGS)").stdout == (
        "{'flags': '-O2 --param=a=1'}\n"
    )


def test_a_damaged_environment_is_found_and_built_anew(machine: Machine) -> None:
    assert machine.run(*machine.install("toy_one")).returncode == 0
    (row,) = machine.environments()
    (library,) = machine.store.folder(row["name"]).rglob("toylib.py")
    library.unlink()  # it is a link into the installer's cache, which must not change
    broken = machine.run(XINFER, "engine", "check", "toy_one")
    assert broken.returncode == 1
    assert "No module named 'toylib'" in broken.stderr
    assert "Build it again: xinfer engine install toy_one --again" in broken.stderr
    again = machine.run(*machine.install("toy_one"))
    assert again.returncode == 0, again.stderr
    assert "is there, but broken, and is built again" in again.stderr
    (unused,) = machine.store.folder(row["name"]).rglob("dateutil/zoneinfo/rebuild.py")
    unused.unlink()
    holey = machine.run(XINFER, "engine", "check", "toy_one")
    assert holey.returncode == 1
    assert "files of its packages are missing" in holey.stderr
    assert str(unused) in holey.stderr
    assert machine.run(*machine.install("toy_one")).returncode == 0
    assert machine.run(XINFER, "engine", "check", "toy_one").returncode == 0
    assert [row["name"]] == [row["name"] for row in machine.environments()]


def test_an_environment_whose_python_is_gone_is_found_and_built_anew(machine: Machine) -> None:
    words = ("toy_one", "--package", "h11", "--package", "toylib>1,<3")
    assert machine.run(*machine.install(*words)).returncode == 0
    (row,) = machine.environments()
    python = machine.store.python(row["name"])
    python.unlink()
    python.symlink_to("/nowhere/python3")
    assert [row["state"] for row in machine.environments()] == ["broken"]
    (checked,) = json.loads(machine.run(XINFER, "engine", "check", "--json").stdout)
    assert (checked["name"], checked["ok"]) == (row["name"], False)
    assert checked["reason"].endswith("-> /nowhere/python3")
    broken = machine.run(XINFER, "engine", "check", "toy_one")
    assert broken.returncode == 1
    assert "xinfer engine install toy_one --again --package h11 --package 'toylib>1,<3'" in broken.stderr
    assert machine.run(*machine.install(*words)).returncode == 0
    assert machine.run(XINFER, "engine", "check", row["name"]).returncode == 0


def test_an_environment_in_use_is_ready_for_others_too_and_is_not_replaced(machine: Machine) -> None:
    assert machine.run(*machine.install("toy_one")).returncode == 0
    assert machine.run(*machine.install("toy_one", "--package", "h11")).returncode == 0
    (used,) = [row["name"] for row in machine.environments() if not row["extra"]]
    with machine.store.lock(used) as replica:
        assert replica.try_shared()
        assert "is ready" in machine.run(*machine.install("toy_one")).stdout
        refused = machine.run(*machine.install("toy_one", "--again"))
        assert refused.returncode == 1
        assert "cannot be built again while something runs in it" in refused.stderr
        removed = machine.run(XINFER, "engine", "remove", "toy_one")
        assert removed.returncode == 1
        assert f"{used} cannot be removed: replicas run in it" in removed.stderr
        assert [row["name"] for row in machine.environments()] == [used], "the other one is gone"


def test_an_environment_stays_until_the_one_that_replaces_it_is_ready(machine: Machine) -> None:
    assert machine.run(*machine.install("toy_one")).returncode == 0
    (row,) = machine.environments()
    wheels, machine.wheels = machine.wheels, machine.home / "no wheels"
    machine.wheels.mkdir()
    failed = machine.run(*machine.install("toy_one", "--again"))
    assert failed.returncode == 1
    assert "toylib" in failed.stderr
    assert "No solution found" in machine.store.log(row["name"]).read_text()
    assert machine.environments() == [row]
    assert machine.run(XINFER, "engine", "check").returncode == 0
    machine.wheels = wheels
    assert machine.run(*machine.install("toy_one", "--again")).returncode == 0
    (newer,) = machine.environments()
    assert newer["built_at"] > row["built_at"]
    assert list((machine.store.root / ".replaced").iterdir()) == []


def test_a_replacement_that_is_killed_leaves_the_environment_that_was_there(machine: Machine, gate: Path) -> None:
    first = machine.start(*machine.install("toy_one"))
    until_checked(gate).close()
    assert first.wait(PATIENCE_S) == 0, first.communicate()
    (row,) = machine.environments()
    builder = machine.start(*machine.install("toy_one", "--again"))
    door = until_checked(gate)
    builder.kill()
    builder.communicate(timeout=PATIENCE_S)
    first.communicate()
    (orphan,) = checks_in(machine)
    door.close()
    orphan.wait(PATIENCE_S)
    assert machine.store.find(row["name"]) is None
    machine.store.sweep()  # as a worker does when it starts
    assert machine.environments() == [row]


def test_a_log_shows_how_far_a_build_is(machine: Machine, gate: Path) -> None:
    builder = machine.start(*machine.install("toy_one"))
    until_checked(gate).close()
    _, said = builder.communicate(timeout=PATIENCE_S)
    assert builder.returncode == 0
    assert said.splitlines()[0].startswith("toy_one ")
    assert " 0 s  " in said.splitlines()[0]


def test_another_version_of_a_package_is_another_environment(machine: Machine) -> None:
    for command in (machine.install("toy_one"), machine.install("toy_one", "--package", "toylib==2.0")):
        assert machine.run(*command).returncode == 0
    rows = {row["version"]: row["extra"] for row in machine.environments()}
    assert rows == {"1.0": [], "2.0": ["toylib==2.0"]}


def test_two_who_build_the_same_at_once_build_it_once(machine: Machine, gate: Path) -> None:
    first = machine.start(*machine.install("toy_one"))
    door = until_checked(gate)
    second = machine.start(*machine.install("toy_one"))
    assert "toy_one" in second.stderr.readline(), "it has begun while the first one builds"
    door.close()
    for process in (first, second):
        said, complaints = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, complaints
        assert "is ready" in said
    (row,) = machine.environments()
    assert machine.store.log(row["name"]).read_text().count("$ uv venv") == 1


def test_a_build_that_is_killed_leaves_nothing_that_is_used_and_is_made_again(machine: Machine, gate: Path) -> None:
    builder = machine.start(*machine.install("toy_one"))
    door = until_checked(gate)
    builder.kill()
    builder.communicate(timeout=PATIENCE_S)
    (row,) = machine.environments()
    assert row["state"] == "being built", "what the builder started still runs in it"
    assert machine.run(XINFER, "engine", "remove", row["name"]).returncode == 1
    (orphan,) = checks_in(machine)
    second = machine.start(*machine.install("toy_one"))
    door.close()
    orphan.wait(PATIENCE_S)
    until_checked(gate).close()
    said, complaints = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 0, complaints
    assert "toy_one 1.0 is ready" in said
    assert [row["state"] for row in machine.environments()] == ["ready"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_and_the_like_end_a_build_and_what_it_started(machine: Machine, gate: Path, number: int) -> None:
    with inherited(number, signal.SIG_DFL):
        builder = machine.start(*machine.install("toy_one"))
    door = until_checked(gate)
    builder.send_signal(number)
    _, complaints = builder.communicate(timeout=PATIENCE_S)
    assert builder.returncode == 130
    assert "Nothing half-built is used" in complaints
    with pytest.raises(BrokenPipeError):  # nobody is left on the other side
        os.write(door.fileno(), b"x")
    door.close()
    (row,) = machine.environments()
    assert row["state"] == "unfinished"
    assert not machine.store.python(row["name"]).exists()
    assert machine.store.log(row["name"]).exists()


def test_a_build_outlives_its_terminal_under_nohup(machine: Machine, gate: Path) -> None:
    with inherited(signal.SIGHUP, signal.SIG_IGN):
        builder = machine.start(*machine.install("toy_one"))
    door = until_checked(gate)
    builder.send_signal(signal.SIGHUP)
    door.close()
    _, complaints = builder.communicate(timeout=PATIENCE_S)
    assert builder.returncode == 0, complaints


def test_an_engine_that_does_not_work_in_it_is_no_environment(machine: Machine, gate: Path) -> None:
    (machine.wheels / "toylib-1.0-py3-none-any.whl").unlink()
    write_library(machine.wheels, "1.0", body="raise ImportError('libmissing.so: cannot open shared object file')\n")
    failed = machine.run(*machine.install("toy_one"))
    assert failed.returncode == 1
    assert "it was built, but does not work" in failed.stderr
    assert "libmissing.so: cannot open shared object file" in failed.stderr
    assert [row["state"] for row in machine.environments()] == ["unfinished"]


def test_a_package_that_is_nowhere_is_named(machine: Machine) -> None:
    failed = machine.run(*machine.install("toy_one", "--package", "no-such-package-anywhere"))
    assert failed.returncode == 1
    assert "no-such-package-anywhere" in failed.stderr
    refused = machine.run(*machine.install("echo"))
    assert refused.returncode == 1
    assert "needs no environment of its own" in refused.stderr


FULL_DISK = """
set -e
mount -t tmpfs -o size=48m tmpfs "$DISK"
set +e
"$@"
echo "status $?"
find "$DISK" -name environment.json
mount -o remount,size=900m "$DISK"
"$@"
echo "status $?"
find "$DISK" -name environment.json
"""


def test_a_full_disk_is_a_clear_reason_and_afterwards_it_goes_on(machine: Machine) -> None:
    """In a mount namespace of its own, where a small file system is the disk; it is gone with the process."""
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    if machine.run(*unshare, "mount", "-t", "tmpfs", "tmpfs", "/mnt").returncode != 0:
        pytest.skip("this user may not mount a file system, and only a small one is ever full")
    machine.home.mkdir()
    machine.env |= {"DISK": str(machine.home), "UV_LINK_MODE": "copy"}
    roomy = machine.run(*unshare, "sh", "-c", FULL_DISK, "sh", *machine.install("toy_one"))
    before, after = roomy.stdout.split("status 1\n")
    assert before == "", "nothing is ready on the full disk"
    assert "needs about 200 MiB" in roomy.stderr, "it looks before it begins"
    assert "status 0" in after
    assert "environment.json" in after
    filled = machine.run(*unshare, "sh", "-c", FULL_DISK, "sh", *machine.install("toy_two"))
    before, after = filled.stdout.split("status 1\n")
    assert before == ""
    assert "Free some, or set XINFER_HOME" in filled.stderr
    assert "No space left on device" not in filled.stderr
    assert "environment.json" in after, "what was begun is no obstacle"
