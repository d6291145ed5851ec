"""CUDA's Multi-Process Service: is its control daemon there, and what it limits us to by environment variables."""

import os
import re
import socket
import stat
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_PIPE_DIRECTORY = "/tmp/nvidia-mps"  # noqa: S108  where CUDA looks
_UNITS_MIB = {"M": 1, "G": 1024}


@dataclass(frozen=True)
class MpsReading:
    """MPS as a process started from here would meet it."""

    running: bool
    reason: str
    """For people: how we know."""
    pipe_directory: Path
    memory_mib: dict[str, int] = field(default_factory=dict)
    """What each process may pin, by the index of a device in our view."""
    cores_percent: int = 100
    """The share of the SMs that each process may use."""
    warnings: tuple[str, ...] = ()


def read_mps(env: dict[str, str]) -> MpsReading:
    """Look for the daemon and read the limits in ``env``; limits hold only where it runs."""
    directory = Path(env.get("CUDA_MPS_PIPE_DIRECTORY") or DEFAULT_PIPE_DIRECTORY)
    running, reason = daemon_answers(directory / "control")
    memory, wrong = parse_memory_limits(env.get("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", ""))
    warnings = [f"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT: {entry!r} is no limit (like 0=8000M)" for entry in wrong]
    cores = 100
    share = env.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "")
    if share:
        number = int(float(share)) if re.fullmatch(r"\d+(\.\d+)?", share) else 0
        if 1 <= number <= 100:
            cores = number
        else:
            warnings.append(f"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE={share} is no percentage from 1 to 100")
    if not running and (memory or cores < 100):
        warnings.append(f"CUDA_MPS_* sets limits, but nothing holds processes to them: {reason}")
    return MpsReading(running, reason, directory, memory, cores, tuple(warnings))


def daemon_answers(control: Path) -> tuple[bool, str]:
    """Whether somebody listens on the daemon's pipe, as CUDA itself finds out, and how we know.

    It works across PID namespaces (a pipe directory mounted into a container), where its pid file says nothing.
    """
    try:
        mode = control.stat().st_mode
    except OSError:
        return False, f"no MPS control daemon: there is no {control}"
    try:
        if stat.S_ISSOCK(mode):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(1)
                probe.connect(str(control))
        elif stat.S_ISFIFO(mode):
            os.close(os.open(control, os.O_WRONLY | os.O_NONBLOCK))  # fails where nobody reads
        else:
            return False, f"no MPS control daemon: {control} is neither a socket nor a pipe"
    except OSError as error:
        return False, f"no MPS control daemon: nobody answers at {control} ({error.strerror or error})"
    return True, f"the MPS control daemon answers at {control}"


def parse_memory_limits(text: str) -> tuple[dict[str, int], list[str]]:
    """``"0=8000M,1=2G"`` as device -> MiB, and the entries that are none."""
    limits: dict[str, int] = {}
    wrong: list[str] = []
    for entry in filter(None, text.split(",")):
        parsed = re.fullmatch(r"\s*([\w-]+)\s*=\s*(\d+)\s*([MG])B?\s*", entry, re.IGNORECASE)
        if parsed is None or int(parsed[2]) == 0:
            wrong.append(entry)
        else:
            limits[parsed[1]] = int(parsed[2]) * _UNITS_MIB[parsed[3].upper()]
    return limits, wrong
