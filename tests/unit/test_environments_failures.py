"""What a build that failed says to whoever wanted it."""

import asyncio
import sys
from pathlib import Path

import pytest

from xinfer.errors import EnvironmentFailed
from xinfer.worker.environments.build import build, out_of_disk
from xinfer.worker.environments.plan import EnvironmentPlan, Machine
from xinfer.worker.environments.sources import Sources
from xinfer.worker.environments.store import EnvironmentStore
from xinfer.worker.environments.uv import OutOfDisk, cache_folder, failure

ON = Machine(python="cpython-311", platform="linux-x86_64", accelerator="cpu")
PLAN = EnvironmentPlan(engine="toy", machine=ON, packages=("toylib",), disk_mib=1500)
REFUSED = """\
error: Request failed after 3 retries in 4.5s
  cause: Failed to fetch: http://127.0.0.1:9/simple/mlx/
  cause: Connection refused (os error 111)"""


def test_an_index_that_does_not_answer_comes_with_what_to_do() -> None:
    said = failure("uv pip failed", 2, REFUSED).message
    assert "http://127.0.0.1:9/simple/mlx/" in said
    assert said.endswith("xinfer engine install ENGINE --find-links FOLDER --no-index")
    assert "--no-index" not in failure("uv pip failed", 1, "error: No solution found").message


def test_a_full_disk_is_told_from_other_reasons() -> None:
    assert isinstance(failure("uv pip failed", 2, "cause: No space left on device (os error 28)"), OutOfDisk)
    assert not isinstance(failure("uv pip failed", 2, REFUSED), OutOfDisk)


def test_a_home_that_pythons_cannot_be_started_from_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    store = EnvironmentStore(tmp_path / "co:lon" / "environments")
    with pytest.raises(EnvironmentFailed, match="set XINFER_HOME to another folder"):
        asyncio.run(build(store, PLAN, Sources(), lambda *_: None, Path(sys.executable)))
    assert not store.folder(PLAN.name).exists()


def test_the_cache_is_where_uv_has_it() -> None:
    assert cache_folder({"UV_CACHE_DIR": "/big/uv", "XDG_CACHE_HOME": "/x"}) == Path("/big/uv")
    assert cache_folder({"XDG_CACHE_HOME": "/x"}) == Path("/x/uv")
    assert cache_folder({}) == Path.home() / ".cache" / "uv"


def test_both_disks_are_named_where_packages_are_unpacked_on_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EnvironmentStore(tmp_path / "home" / "environments")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    said = out_of_disk(store, PLAN).message
    assert said.startswith(f"the environment of toy needs about 1500 MiB; the disk of {store.root} has ")
    assert str(tmp_path / "cache") not in said, "it is on the same disk"
    other = Path("/dev/shm")
    if not other.exists() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one disk only")
    monkeypatch.setenv("UV_CACHE_DIR", str(other / "no-such-folder"))
    assert (
        f"and that of {other / 'no-such-folder'}, where packages are unpacked first, "
        in out_of_disk(store, PLAN).message
    )
