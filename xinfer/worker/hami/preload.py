"""Whether HAMi-core is loaded into processes here: without it the limits are only words."""

from dataclasses import dataclass
from pathlib import Path

LIBRARY = "libvgpu.so"


@dataclass(frozen=True)
class Preload:
    """What shows that HAMi-core holds processes of this container to their limits."""

    loaded: bool
    """It is in this very process, so it will be in those we start."""
    reason: str
    """For people: how we know, or why it is not."""


def read_preload(
    env: dict[str, str],
    maps: Path = Path("/proc/self/maps"),
    preload_file: Path = Path("/etc/ld.so.preload"),
) -> Preload:
    """Look for HAMi-core in our own memory map; the preload file and the environment only explain its absence."""
    if LIBRARY in _text(maps):
        return Preload(True, f"{LIBRARY} is loaded")
    if env.get("CUDA_DISABLE_CONTROL", "").lower() in ("true", "1"):
        return Preload(False, "CUDA_DISABLE_CONTROL turns HAMi-core off in this pod")
    if LIBRARY in _text(preload_file):
        return Preload(False, f"{preload_file} names {LIBRARY}, but it is not loaded: is the file there?")
    return Preload(False, f"{LIBRARY} is neither loaded nor named in {preload_file}")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
