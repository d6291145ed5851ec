"""A real SGLang over two workers: every layer of the demo model is cut in two."""

import pytest
from e2e.band import SETTINGS, Band, plays_and_returns
from e2e.engine_cases import CHAT_CASES, is_present

pytestmark = pytest.mark.skipif(
    not is_present("sglang"), reason="SGLang is not installed; make test-engines builds its environment"
)


def test_two_workers_answer_as_one_and_start_again_together(tmp_path, open_site, wait):
    case = next(case for case in CHAT_CASES if case.name == "sglang")
    with open_site(tmp_path, **SETTINGS) as site:
        plays_and_returns(Band(site, wait, 2), case, attention_backend="torch_native")
