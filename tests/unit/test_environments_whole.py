import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from xinfer.ops import Kind
from xinfer.processes import ProcessId, write_record
from xinfer.protocol import FAILURE_FILE, LOG_FILE, FailureRecord, LaunchOrder
from xinfer.spec import Deployment, Format, ModelSpec
from xinfer.worker.environments.blame import blame
from xinfer.worker.environments.plan import Machine
from xinfer.worker.environments.store import VENV, EnvironmentRecord, EnvironmentStore
from xinfer.worker.environments.whole import damage
from xinfer.worker.processes import ReplicaProcess

NAME = "toy-1"
PACKAGES = ("Some.Library==1.0", "other-one @ file:///wheels/other_one-2.0-py3-none-any.whl")
FILES = {"some_library-1.0": "some_library.py", "other_one-2.0": "other_one/__init__.py"}


@pytest.fixture
def store(tmp_path: Path) -> EnvironmentStore:
    """A home with one environment, which is whole."""
    store = EnvironmentStore(tmp_path)
    site = store.folder(NAME) / VENV / "lib" / "python3.11" / "site-packages"
    for package, file in FILES.items():
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_text("answer = 42\n")
        info = site / f"{package}.dist-info"
        info.mkdir()
        cached = file.replace(".py", ".cpython-311.pyc")
        (info / "RECORD").write_text(f"{file},sha256=x,12\n{cached},,\n{info.name}/RECORD,,\n")
    on = Machine(python="cpython-311", platform="linux-x86_64", accelerator="cpu")
    store.write(EnvironmentRecord(name=NAME, engine="toy", version="1.0", machine=on, packages=PACKAGES))
    return store


def site_of(store: EnvironmentStore) -> Path:
    return store.folder(NAME) / VENV / "lib" / "python3.11" / "site-packages"


def test_what_is_as_it_was_installed_has_no_damage(store: EnvironmentStore) -> None:
    assert damage(store.folder(NAME) / VENV, PACKAGES) == ""
    assert blame(store.python(NAME), "OutOfMemoryError: no room for the weights") == ""


def test_files_that_are_missing_or_cut_short_and_lost_packages_are_named(store: EnvironmentStore) -> None:
    venv, site = store.folder(NAME) / VENV, site_of(store)
    (site / "some_library.py").write_text("answer")
    assert damage(venv, PACKAGES) == f"files of its packages are cut short: {site / 'some_library.py'}"
    (site / "some_library.py").unlink()
    assert damage(venv, PACKAGES) == f"files of its packages are missing: {site / 'some_library.py'}"
    (site / "other_one-2.0.dist-info" / "RECORD").unlink()
    assert "other_one-2.0.dist-info/RECORD" in damage(venv, PACKAGES)
    (site / "other_one-2.0.dist-info").rmdir()
    assert damage(venv, PACKAGES).startswith("packages are missing: other-one; files of its packages are missing: ")


def test_of_a_lost_folder_only_some_files_are_named(store: EnvironmentStore) -> None:
    listing = site_of(store) / "some_library-1.0.dist-info" / "RECORD"
    listing.write_text("".join(f"lost/{number}.py,,\n" for number in range(1000)))
    assert damage(store.folder(NAME) / VENV, PACKAGES).endswith("lost/2.py and 997 more")


def test_who_died_in_a_damaged_environment_is_sent_to_its_check(store: EnvironmentStore, tmp_path: Path) -> None:
    (site_of(store) / "some_library.py").unlink()
    found = blame(store.python(NAME), "its process was killed by SIGBUS")
    assert f"xinfer engine check {NAME} " in found
    assert "some_library.py" in found
    assert blame(tmp_path / "elsewhere" / "venv" / "bin" / "python", "ImportError: no") == "", "it is none of ours"
    assert blame(Path("/python"), "ImportError: no") == ""


@pytest.mark.parametrize("said", ["ModuleNotFoundError: No module named 'timm'", "its process was killed by SIGSEGV"])
def test_what_looks_like_a_wrong_package_has_a_softer_word(store: EnvironmentStore, said: str) -> None:
    found = blame(store.python(NAME), said)
    assert f"xinfer engine check {NAME} " in found
    assert "--virtual-env-package" in found
    assert "damaged" not in found


@pytest.mark.parametrize(
    ("code", "is_told"), [("raise SystemExit(1)", True), ("import os; os.kill(os.getpid(), 9)", False)]
)
def test_the_autopsy_tells_it_before_the_log_of_what_ended_by_itself(
    store: EnvironmentStore, tmp_path: Path, code: str, is_told: bool
) -> None:
    (site_of(store) / "some_library.py").unlink()
    order = LaunchOrder(
        replica_id="m-0",
        instance="i1",
        generation=1,
        deployment=Deployment(
            model_uid="m", spec=ModelSpec(name="m", kind=Kind.LLM, source="", format=Format.NONE), engine="toy"
        ),
        slices=(),
        threads=1,
        host="127.0.0.1",
        lease_s=1.0,
        python=str(store.python(NAME)),
    )
    (tmp_path / LOG_FILE).write_text("one\n")

    def reason() -> str:
        child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        child.returncode = 0
        process = ReplicaProcess(tmp_path, order, ProcessId.of(child.pid) or ProcessId(child.pid, 0.0))
        assert asyncio.run(process.gone(30))
        return asyncio.run(process.autopsy()).reason

    first, second, *rest = reason().splitlines()
    assert first.startswith("its process ")
    assert (f"xinfer engine check {NAME} " in second) == is_told
    assert "\n".join([second, *rest]).endswith("Last lines of its log:\none")
    write_record(tmp_path / FAILURE_FILE, FailureRecord(reason="it cannot be imported"))
    assert f"it cannot be imported\nThe environment {NAME} " in reason()
