"""What differs between releases of transformers."""

import functools

import pytest

from xinfer.engines.transformers_library import cache_argument


class Old:
    def forward(self, input_ids, past_key_values=None, **more): ...


class New:
    def forward(self, input_ids, cache=None, **more): ...


class Renamed(New):
    """As the library has it: what translates the old name is wrapped around."""

    @functools.wraps(New.forward)
    def forward(self, *arguments, **more): ...


@pytest.mark.parametrize(("kind", "name"), [(Old, "past_key_values"), (New, "cache"), (Renamed, "cache")])
def test_the_cache_is_given_under_the_name_that_a_model_has_for_it(kind, name):
    assert cache_argument(kind()) == name
