"""Seeds that SGLang would ignore."""

import pytest

from xinfer.engines.sglang.seeds import check_seed
from xinfer.errors import UnsupportedParameter


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "m", "temperature": 1}',
        b'{"seed": null}',
        b'{"seed": 7, "temperature": 0}',
        b'{"seed": 7, "temperature": 0.0}',
        b'{"prompt": "a \\"seed\\" grows"}',
        b'{"seed": "seven"}',
        b'{"seed": 7',
    ],
)
def test_what_is_honoured_or_refused_by_sglang_itself_passes(body):
    check_seed(body)


@pytest.mark.parametrize("body", [b'{"seed": 7}', b'{"seed": 0, "temperature": 0.7}'])
def test_a_seed_for_a_drawn_answer_is_refused_with_the_way_out(body):
    with pytest.raises(UnsupportedParameter, match="--enable-deterministic-inference") as refused:
        check_seed(body)
    assert refused.value.param == "seed"
