import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.worker.hami.annotation import KEY, AllocatedDevice, decode, encode, from_downward_api

names = st.text("GPUabcdef0123456789-[]", min_size=1, max_size=40)
devices = st.builds(
    AllocatedDevice, uuid=names, type=names, memory_mib=st.integers(0, 1 << 31), cores=st.integers(0, 100)
)


@given(st.lists(st.lists(devices, max_size=4).map(tuple), max_size=5).map(tuple))
def test_what_is_written_is_read(containers) -> None:
    assert decode(encode(containers)) == containers
    line = f"{KEY}={json.dumps(encode(containers))}"
    assert decode(from_downward_api(f'other="x=y"\n{line}\nmore="z"') or "") == containers


def test_init_containers_come_first_and_empty_ones_hold_their_place() -> None:
    text = ";GPU-a,NVIDIA,2000,20:GPU-b,NVIDIA,3000,0:;"
    assert decode(text) == (
        (),
        (AllocatedDevice("GPU-a", "NVIDIA", 2000, 20), AllocatedDevice("GPU-b", "NVIDIA", 3000, 0)),
    )
    assert encode(decode(text)) == text
    assert decode("") == ()


def test_a_field_more_is_no_matter() -> None:
    assert decode("GPU-a,NVIDIA,2000,20,something:;") == ((AllocatedDevice("GPU-a", "NVIDIA", 2000, 20),),)


@pytest.mark.parametrize("text", ["GPU-a", "GPU-a,NVIDIA,2000:;", ",NVIDIA,1,1:;", "GPU-a,NVIDIA,-1,0:;", "a,b,1g,0:;"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="UUID,TYPE,MiB,percent"):
        decode(text)


def test_a_file_of_annotations() -> None:
    assert from_downward_api('a="1"\n') is None
    for value in ("GPU-a,NVIDIA,1,1:;", "3", '"open'):
        with pytest.raises(ValueError, match="no quoted text"):
            from_downward_api(f"{KEY}={value}")
