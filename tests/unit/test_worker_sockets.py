"""The folder for the unix sockets of an engine's own processes: made for those that want one, gone with the replica."""

from pathlib import Path
from typing import Any

import pytest

from xinfer import plugins
from xinfer.engines.echo import ENGINE as ECHO
from xinfer.ops import Kind
from xinfer.processes import ProcessId, write_record
from xinfer.protocol import PROCESS_FILE, LaunchOrder, ProcessRecord
from xinfer.spec import Deployment, Format, ModelSpec
from xinfer.worker import sockets
from xinfer.worker.folders import ReplicaFolders
from xinfer.worker.sockets import make_sockets, remove_sockets, socket_folder

VARIABLE = "SOCKETS_OF_THE_ENGINE"


class Leaky(ECHO):
    sockets_variable = VARIABLE


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    found: dict[str, Any] = {"leaky": Leaky, "echo": ECHO}
    monkeypatch.setattr(plugins, "engines", lambda: found)


def test_an_engine_gets_a_folder_that_is_removed_with_all_that_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "LONGEST_PATH", 4096)  # the folders of tests are deep
    folder = socket_folder("i1")
    assert make_sockets("leaky", "i1") == {VARIABLE: str(folder)}
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "0f0e0d0c-8bb8-4a84-8cb9-3a4c3a97b1b5").touch()
    remove_sockets("i1")
    assert not folder.exists()
    remove_sockets("i1")


def test_others_get_none() -> None:
    assert make_sockets("echo", "i1") == make_sockets("unknown", "i1") == {}
    assert not socket_folder("i1").exists()


def test_where_paths_would_be_too_long_for_sockets_the_engine_has_them_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("long" * 20)))
    assert make_sockets("leaky", "i1") == {}
    assert not socket_folder("i1").exists()


def test_what_a_process_left_that_died_without_a_worker_is_removed_by_the_next_one(tmp_path: Path) -> None:
    spec = ModelSpec(name="m", kind=Kind.LLM, source="", format=Format.NONE)
    order = LaunchOrder(
        replica_id="m-0",
        instance="i1",
        generation=1,
        deployment=Deployment(model_uid="m", spec=spec, engine="leaky"),
        slices=(),
        threads=1,
        host="127.0.0.1",
        lease_s=1.0,
    )
    folders = ReplicaFolders(tmp_path / "replicas")
    folder = folders.create(order)
    process = ProcessId.own()
    write_record(folder / PROCESS_FILE, ProcessRecord(pid=process.pid, started=process.started))
    socket_folder("i1").mkdir()
    assert [living for living, _, _ in folders.living()] == [folder]
    assert socket_folder("i1").exists()
    write_record(folder / PROCESS_FILE, ProcessRecord(pid=2**22 + 1, started=0.0))
    assert not list(folders.living())
    assert not socket_folder("i1").exists()
