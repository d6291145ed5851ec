import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.worker.hami.annotation import AllocatedDevice, encode
from xinfer.worker.hami.preload import Preload
from xinfer.worker.hami.region import SIZE
from xinfer.worker.hami.slices import CardView, HamiSlice, hami_slices, read_hami

LOADED = Preload(True, "libvgpu.so is loaded")
ABSENT = Preload(False, "it is absent")
A, B = CardView("GPU-a", 0, 2000), CardView("GPU-b", 1, 23034)


def allocated(uuid: str, mib: int, cores: int = 0) -> AllocatedDevice:
    return AllocatedDevice(uuid, "NVIDIA", mib, cores)


def sliced(preload: Preload = LOADED, *cards: CardView, **env: str) -> tuple[dict[str, HamiSlice], tuple[str, ...]]:
    return hami_slices(read_hami(env, preload=preload), cards or (A,))


def test_nothing_of_hami() -> None:
    assert not read_hami({}, preload=ABSENT).given
    assert read_hami({}, preload=LOADED).given
    assert read_hami({"CUDA_DEVICE_SM_LIMIT": "10"}, preload=ABSENT).given


def test_all_sources_agree() -> None:
    slices, warnings = sliced(
        XINFER_HAMI_DEVICES=encode(((allocated("GPU-a", 2000, 20),),)),
        CUDA_DEVICE_MEMORY_LIMIT_0="2000m",
        CUDA_DEVICE_SM_LIMIT="20",
    )
    assert slices == {"GPU-a": HamiSlice(2000, 20, enforced=True)}
    assert warnings == ()


def test_the_smallest_reading_counts_and_the_others_are_named() -> None:
    slices, warnings = sliced(
        XINFER_HAMI_DEVICES=encode(((allocated("GPU-a", 1500, 30),),)),
        CUDA_DEVICE_MEMORY_LIMIT_0="8000m",
        CUDA_DEVICE_SM_LIMIT="20",
    )
    assert slices == {"GPU-a": HamiSlice(1500, 20, enforced=False)}
    shares = "XINFER_HAMI_DEVICES says 30 % of its cores, CUDA_DEVICE_SM_LIMIT says 20 % of its cores"
    said = "XINFER_HAMI_DEVICES says 1500 MiB, CUDA_DEVICE_MEMORY_LIMIT_0 says 8000 MiB, NVML says 2000 MiB"
    assert warnings == (
        f"GPU-a: {said}; 1500 MiB are taken",
        f"GPU-a: {shares}; 20 % are taken",
        "GPU-a: nothing holds processes to the 1500 MiB that HAMi gave: NVML does not show such a limit",
    )


def test_a_limit_beyond_the_card_is_the_card() -> None:
    slices, warnings = sliced(ABSENT, A, CUDA_DEVICE_MEMORY_LIMIT_0="8g")
    assert slices["GPU-a"].memory_mib == 2000
    assert "NVML says 2000 MiB" in warnings[0]


def test_without_limits_the_whole_card_is_ours_but_nobody_enforces_it() -> None:
    slices, warnings = sliced(LOADED, B)
    assert slices == {"GPU-b": HamiSlice(23034, 100, enforced=False)}
    assert len(warnings) == 1


def test_the_live_limit_in_the_shared_region_counts(tmp_path: Path) -> None:
    data = bytearray(SIZE)
    struct.pack_into("<iI", data, 0, 19920718, 1)
    struct.pack_into("<Q", data, 56, 1)
    struct.pack_into("96s", data, 64, b"GPU-a")
    struct.pack_into("<Q", data, 1600, 1000 << 20)
    (tmp_path / "cache").write_bytes(data)
    env = {"CUDA_DEVICE_MEMORY_LIMIT_0": "2000m", "CUDA_DEVICE_MEMORY_SHARED_CACHE": str(tmp_path / "cache")}
    slices, warnings = sliced(**env)
    assert slices["GPU-a"].memory_mib == 1000
    assert "the shared region says 1000 MiB" in warnings[0]
    (tmp_path / "cache").write_bytes(b"nothing yet")
    assert sliced(**env)[0]["GPU-a"].memory_mib == 2000


def test_cards_of_other_containers_are_not_ours() -> None:
    text = encode(((allocated("GPU-b", 500),), (allocated("GPU-a", 2000), allocated("GPU-gone", 1))))
    slices, warnings = sliced(LOADED, A, B, XINFER_HAMI_DEVICES=text, XINFER_CONTAINER_INDEX="1")
    assert list(slices) == ["GPU-a"]
    assert warnings == (
        "GPU-b can be seen here, but HAMi did not give it to this container: it is not used",
        "HAMi gave GPU-gone, but NVML does not show it",
    )
    slices, _ = sliced(LOADED, A, B, XINFER_HAMI_DEVICES=";;", XINFER_CONTAINER_INDEX="1")
    assert slices == {}


@pytest.mark.parametrize("index", [{}, {"XINFER_CONTAINER_INDEX": "7"}, {"XINFER_CONTAINER_INDEX": "first"}])
def test_which_container_we_are_is_guessed_by_what_we_see(index: dict[str, str]) -> None:
    text = encode(((), (allocated("GPU-a", 1000),), (allocated("GPU-elsewhere", 9),)))
    slices, warnings = sliced(ABSENT, A, XINFER_HAMI_DEVICES=text, **index)
    assert slices["GPU-a"].memory_mib == 1000
    assert any("XINFER_CONTAINER_INDEX" in warning for warning in warnings) == bool(index)


def test_two_containers_on_one_card_without_an_index() -> None:
    text = encode(((allocated("GPU-a", 1500),), (allocated("GPU-a", 700),)))
    slices, warnings = sliced(ABSENT, A, XINFER_HAMI_DEVICES=text)
    assert slices["GPU-a"].memory_mib == 700
    assert "Set XINFER_CONTAINER_INDEX" in warnings[0]


def test_a_mig_instance_is_held_by_the_card_itself() -> None:
    instance = CardView("GPU-a", 0, 9856, is_mig=True)
    slices, warnings = sliced(ABSENT, instance, XINFER_HAMI_DEVICES=encode(((allocated("GPU-a[1-0]", 9856),),)))
    assert slices["GPU-a"].memory_mib == 9856
    assert warnings == ()


def test_the_file_and_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "annotations"
    path.write_text('hami.io/vgpu-devices-allocated="GPU-a,NVIDIA,many,0:;"\n')
    reading = read_hami({"XINFER_HAMI_ANNOTATIONS": str(path), "CUDA_OVERSUBSCRIBE": "true"}, preload=ABSENT)
    assert not reading.given
    assert len(reading.warnings) == 2
    assert "is not what HAMi writes" in reading.warnings[0]
    assert "oversubscribes" in reading.warnings[1]
    path.write_text("hami.io/vgpu-devices-allocated=unquoted\n")
    assert "cannot be read" in read_hami({"XINFER_HAMI_ANNOTATIONS": str(path)}, preload=ABSENT).warnings[0]


mebibytes = st.integers(1, 100_000)


@given(mebibytes, st.none() | mebibytes, st.none() | mebibytes, st.booleans())
def test_nobody_gets_more_than_the_smallest_reading(
    total: int, annotated: int | None, limited: int | None, loaded: bool
) -> None:
    env = {"XINFER_HAMI_ANNOTATIONS": "/nowhere"}
    if annotated is not None:
        env["XINFER_HAMI_DEVICES"] = encode(((allocated("GPU-a", annotated),),))
    if limited is not None:
        env["CUDA_DEVICE_MEMORY_LIMIT_0"] = f"{limited}m"
    slices, warnings = sliced(LOADED if loaded else ABSENT, CardView("GPU-a", 0, total), **env)
    limits = [limit for limit in (annotated, limited) if limit is not None]
    taken = slices["GPU-a"].memory_mib
    assert taken == min([total, *limits])
    if max([*limits, total if loaded else taken], default=taken) - taken > 1:
        assert any("are taken" in warning for warning in warnings)
    if slices["GPU-a"].enforced:
        assert loaded
        assert abs(total - taken) <= 1
