"""Which of a home's environments go first."""

from pathlib import Path

import pytest

from xinfer.worker.environments.here import Environments, machine
from xinfer.worker.environments.store import EnvironmentRecord


@pytest.fixture
def here(tmp_path: Path) -> Environments:
    return Environments(tmp_path, machine(()))


def add(here: Environments, name: str, built_at: float, extra: tuple[str, ...] = ()) -> EnvironmentRecord:
    python = here.store.python(name)
    python.parent.mkdir(parents=True)
    python.touch()
    record = EnvironmentRecord(
        name=name, engine="mlx", version="1", machine=here.machine, packages=(), extra=extra, built_at=built_at
    )
    here.store.write(record)
    return record


def test_what_would_be_built_today_goes_before_what_is_newer(here: Environments) -> None:
    plain, packed = here.plan("mlx").name, here.plan("mlx", ["h11"]).name
    outdated = add(here, "mlx-000000000000", 3.0)
    add(here, packed, 2.0, ("h11",))
    add(here, plain, 1.0)
    assert [record.name for record in here.usable()] == [plain, packed, outdated.name]
    assert not here.is_current(outdated)


def test_an_environment_of_an_engine_that_is_gone_is_not_current(here: Environments) -> None:
    record = EnvironmentRecord(name="gone-1", engine="gone", version="1", machine=here.machine, packages=())
    assert not here.is_current(record)
    none_of_its_own = EnvironmentRecord(name="echo-1", engine="echo", version="1", machine=here.machine, packages=())
    assert not here.is_current(none_of_its_own)
