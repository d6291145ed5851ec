"""What the command line shows of a replica that runs on several workers."""

import io

import pytest
from rich.console import Console

from xinfer.cli.dry_run import plan_table
from xinfer.cli.launch_progress import LaunchDisplay
from xinfer.cli.status import models_table
from xinfer.client.answers import (
    DeviceVerdict,
    Explanation,
    LaunchPlan,
    LaunchProgress,
    ModelStatus,
    PlannedReplica,
    PlannedSlice,
    ReplicaProgress,
)

MEMBERS = (
    ReplicaProgress(replica_id="m-0", rank=0, state="READY", stage="ready", worker="left"),
    ReplicaProgress(replica_id="m-0.1", rank=1, state="STARTING", stage="importing", worker="right"),
)
GANG = ReplicaProgress(replica_id="m-0", state="STARTING", stage="rank 1 on right: importing", members=MEMBERS)


@pytest.fixture
def page():
    return Console(width=160, file=io.StringIO(), color_system=None)


def lines(page, table):
    page.print(table)
    return [" ".join(line.replace("│", " ").split()) for line in page.file.getvalue().splitlines()]


def test_status_has_a_line_for_each_member(page):
    found = lines(page, models_table((ModelStatus(model_uid="m", replicas=(GANG,)),)))
    assert "m m-0 2 workers STARTING rank 1 on right: importing" in found
    assert "rank 0 left READY" in found
    assert "rank 1 right STARTING importing" in found


def test_the_progress_of_one_replica_shows_its_members():
    display = LaunchDisplay("m")
    display.update(LaunchProgress(replicas=(GANG,)))
    assert [task.fields["detail"] for task in display._bars.tasks[1:]] == [
        "READY ready on left",
        "STARTING importing on right",
    ]


def test_a_plan_marks_the_devices_of_every_member(page):
    pieces = (PlannedSlice(device_id="cpu", memory_mib=100),)
    follower = PlannedReplica(worker_id="right", slices=pieces)
    place = PlannedReplica(worker_id="left", slices=pieces, followers=(follower,))
    devices = tuple(DeviceVerdict(worker_id=name, worker=name, device_id="cpu") for name in ("left", "right", "third"))
    plan = LaunchPlan(model_uid="m", placements=(place,), explanation=Explanation(devices=devices))
    found = [line for line in lines(page, plan_table(plan)) if "takes 1 replica" in line]
    assert [line.split()[0] for line in found] == ["left", "right"]
