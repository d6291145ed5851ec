import os
from pathlib import Path

import pytest

from xinfer.errors import NotFound
from xinfer.ops import Kind
from xinfer.processes import ProcessId, write_record
from xinfer.protocol import LAUNCH_FILE, LOG_FILE, PROCESS_FILE, LaunchOrder, ProcessRecord
from xinfer.spec import Deployment, Format, ModelSpec
from xinfer.worker.folders import KEPT_FAILURES, ReplicaFolders
from xinfer.worker.identity import claim_slot


def order(replica_id: str = "m-0", instance: str = "i1") -> LaunchOrder:
    spec = ModelSpec(name="m", kind=Kind.LLM, source="", format=Format.NONE)
    return LaunchOrder(
        replica_id=replica_id,
        instance=instance,
        generation=1,
        deployment=Deployment(model_uid="m", spec=spec, engine="echo"),
        slices=(),
        threads=1,
        host="127.0.0.1",
        lease_s=1.0,
    )


def sign(folder: Path, process: ProcessId) -> None:
    write_record(folder / PROCESS_FILE, ProcessRecord(pid=process.pid, started=process.started))


DEAD = ProcessId(2**22 + 1, 0.0)


def test_only_living_processes_are_found(tmp_path: Path) -> None:
    folders = ReplicaFolders(tmp_path)
    mine, dead = folders.create(order("m-0")), folders.create(order("m-1"))
    sign(mine, ProcessId.own())
    sign(dead, DEAD)
    assert list(folders.living()) == [(mine, order("m-0"), ProcessId.own())]


def test_an_order_that_nobody_signed_for_is_withdrawn(tmp_path: Path) -> None:
    folders = ReplicaFolders(tmp_path)
    folder = folders.create(order())
    assert list(folders.living()) == []
    assert not (folder / LAUNCH_FILE).exists()


def test_a_process_that_ended_well_leaves_nothing(tmp_path: Path) -> None:
    folders = ReplicaFolders(tmp_path)
    folder = folders.create(order())
    sign(folder, DEAD)
    folders.bury(folder, failed=False)
    assert list(tmp_path.iterdir()) == []


def test_of_a_failing_replica_the_last_log_is_kept(tmp_path: Path) -> None:
    folders = ReplicaFolders(tmp_path)
    for instance in ("i1", "i2"):
        folder = folders.create(order(instance=instance))
        (folder / LOG_FILE).write_text(f"{instance} line\nlast line\n")
        folders.bury(folder, failed=True)
    assert [path.name for path in (tmp_path / "m-0").iterdir()] == ["i2"]
    assert folders.log_of("m-0", 1) == "last line"
    assert folders.log_of("m-0", 5).startswith("i2 line")
    with pytest.raises(NotFound):
        folders.log_of("m-9", 5)


def test_failures_do_not_pile_up(tmp_path: Path) -> None:
    folders = ReplicaFolders(tmp_path)
    for number in range(KEPT_FAILURES + 5):
        folder = folders.create(order(f"m-{number}"))
        os.utime(folder, (number, number))
        folders.bury(folder, failed=True)
    assert len(list(tmp_path.iterdir())) == KEPT_FAILURES


@pytest.mark.parametrize("replica_id", ["..", ".", "a/../../b", "../x"])
def test_no_replica_id_leads_out_of_the_root(tmp_path: Path, replica_id: str) -> None:
    root = tmp_path / "replicas"
    folder = ReplicaFolders(root).create(order(replica_id))
    assert folder.resolve().parent.parent == root.resolve()


def test_workers_of_one_home_get_slots_of_their_own_and_come_back_to_them(tmp_path: Path) -> None:
    first, second = claim_slot(tmp_path), claim_slot(tmp_path)
    assert (first.number, second.number) == (0, 1)
    assert first.worker_id != second.worker_id
    first.release()
    again = claim_slot(tmp_path)
    assert (again.number, again.worker_id) == (0, first.worker_id)
    again.release()
    second.release()
