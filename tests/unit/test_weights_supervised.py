"""What the supervisor makes of what its workers have downloaded."""

import pytest

from xinfer.catalog.weight_sets import CachedWeights, WeightsHere, means
from xinfer.supervisor.weights import with_downloaded

SOURCE = "hf:me/mine#*Q4*.gguf"


def cached(**fields):
    return CachedWeights(**{"name": "hf--me--mine--1", "source": SOURCE, "size": 1, "complete": True} | fields)


def row(*sources, here=False):
    return {"sources": list(sources), "weights_here": here}


@pytest.mark.parametrize("complete", [True, False])
def test_what_a_worker_has_completely_needs_no_download(complete):
    first, second = row("hf:me/other"), row(SOURCE, "ms:me/mine")
    found = {"best": second, "combinations": [first, second, row("/path", here=True)], "model_name": "m"}
    seen = with_downloaded(found, {"one": WeightsHere(), "two": WeightsHere(cached=(cached(complete=complete),))})
    assert [one["weights_here"] for one in seen["combinations"]] == [False, complete, True]
    assert (seen["best"]["weights_here"], seen["model_name"]) == (complete, "m")
    assert with_downloaded(found | {"best": None}, {})["best"] is None


@pytest.mark.parametrize("word", ["hf--me--mine--1", SOURCE, "me/mine"])
def test_weights_are_meant_by_any_of_their_names(word):
    assert means(word, cached())
    assert not means(f"{word}s", cached())
