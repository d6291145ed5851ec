import os
import socket
from pathlib import Path

import pytest

from xinfer.worker.inventory.mps import daemon_answers, parse_memory_limits, read_mps


@pytest.fixture
def pipes(tmp_path: Path) -> dict[str, str]:
    return {"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path)}


def test_no_daemon(pipes: dict[str, str], tmp_path: Path) -> None:
    reading = read_mps(pipes)
    assert not reading.running
    assert reading.reason == f"no MPS control daemon: there is no {tmp_path}/control"
    assert reading.warnings == ()


def test_a_daemon_on_a_socket(pipes: dict[str, str], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(tmp_path / "control"))
        daemon.listen()
        assert read_mps(pipes).running
    assert not read_mps(pipes).running  # the file stays, nobody answers
    assert "nobody answers" in read_mps(pipes).reason


def test_a_daemon_on_a_named_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "control")
    assert not daemon_answers(tmp_path / "control")[0]
    reader = os.open(tmp_path / "control", os.O_RDONLY | os.O_NONBLOCK)
    assert daemon_answers(tmp_path / "control")[0]
    os.close(reader)


def test_a_file_is_no_daemon(tmp_path: Path) -> None:
    (tmp_path / "control").touch()
    assert "neither a socket nor a pipe" in daemon_answers(tmp_path / "control")[1]


def test_limits(pipes: dict[str, str]) -> None:
    reading = read_mps(
        {**pipes, "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=8000M,1=2G", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "30"}
    )
    assert (reading.memory_mib, reading.cores_percent) == ({"0": 8000, "1": 2048}, 30)
    assert "nothing holds processes to them" in reading.warnings[0]


@pytest.mark.parametrize("share", ["0", "101", "many", "-5"])
def test_a_share_that_is_none(pipes: dict[str, str], share: str) -> None:
    reading = read_mps({**pipes, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": share})
    assert reading.cores_percent == 100
    assert "is no percentage" in reading.warnings[0]


def test_memory_limits_that_are_none() -> None:
    assert parse_memory_limits("0=8000M,1:2G,GPU-a=1g,2=0M,3=5") == (
        {"0": 8000, "GPU-a": 1024},
        ["1:2G", "2=0M", "3=5"],
    )
    assert parse_memory_limits("") == ({}, [])
