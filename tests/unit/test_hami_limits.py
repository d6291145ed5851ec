from pathlib import Path

import pytest

from xinfer.worker.hami.limits import memory_limit_mib, read_limits
from xinfer.worker.hami.preload import read_preload


@pytest.mark.parametrize(
    ("text", "mib"),
    [("8000m", 8000), ("2g", 2048), ("2G", 2048), ("1048576", 1), ("1024k", 1), ("0", 0), (" 5m ", 5), ("1", 0)],
)
def test_sizes_as_hami_core_reads_them(text: str, mib: int) -> None:
    assert memory_limit_mib(text) == mib


@pytest.mark.parametrize("text", ["", "m", "-1m", "1.5g", "8t", "9" * 30])
def test_no_sizes(text: str) -> None:
    assert memory_limit_mib(text) is None


def test_an_index_of_its_own_wins() -> None:
    limits = read_limits(
        {
            "CUDA_DEVICE_MEMORY_LIMIT": "4g",
            "CUDA_DEVICE_MEMORY_LIMIT_1": "2000m",
            "CUDA_DEVICE_SM_LIMIT": "30",
            "X": "1",
        }
    )
    assert limits.memory_of(0) == ("CUDA_DEVICE_MEMORY_LIMIT", 4096)
    assert limits.memory_of(1) == ("CUDA_DEVICE_MEMORY_LIMIT_1", 2000)
    assert limits.cores_of(7) == ("CUDA_DEVICE_SM_LIMIT", 30)
    assert limits.any
    assert limits.warnings == ()


def test_zero_is_no_limit_and_nonsense_is_said() -> None:
    limits = read_limits(
        {"CUDA_DEVICE_MEMORY_LIMIT_0": "0", "CUDA_DEVICE_MEMORY_LIMIT_1": "lots", "CUDA_DEVICE_SM_LIMIT": "130"}
    )
    assert not limits.any
    assert limits.memory_of(0) is limits.memory_of(1) is limits.cores_of(0) is None
    assert limits.warnings == (
        "CUDA_DEVICE_MEMORY_LIMIT_1=lots is not a size (bytes, or with k, m or g) and is ignored",
        "CUDA_DEVICE_SM_LIMIT=130 is not a percentage from 0 to 100 and is ignored",
    )


def test_what_proves_that_limits_hold(tmp_path: Path) -> None:
    maps, preload = tmp_path / "maps", tmp_path / "preload"

    def reading(**env: str) -> tuple[bool, str]:
        read = read_preload(env, maps, preload)
        return read.loaded, read.reason

    assert reading() == (False, f"libvgpu.so is neither loaded nor named in {preload}")
    preload.write_text("/usr/local/vgpu/libvgpu.so\n")
    assert reading() == (False, f"{preload} names libvgpu.so, but it is not loaded: is the file there?")
    assert reading(CUDA_DISABLE_CONTROL="true") == (False, "CUDA_DISABLE_CONTROL turns HAMi-core off in this pod")
    maps.write_text("7f00-7f01 r-xp 0 0 0  /usr/lib/libc.so\n7f02-7f03 r-xp 0 0 0  /usr/local/vgpu/libvgpu.so\n")
    assert reading() == (True, "libvgpu.so is loaded")
