"""Texts that the command line prints: spans of time, and how to call a model."""

import ast
import shlex

import pytest

from xinfer.cli.snippets import how_to_call
from xinfer.cli.status import duration
from xinfer.client import Model


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59, "59s"), (60, "1m"), (3725, "1h 2m"), (90000, "1d 1h"), (86400, "1d")],
)
def test_a_duration_has_its_two_largest_units(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("kind", ["LLM", "vision-language", "speech-recognition", "embedding", "rerank"])
def test_the_curl_line_and_the_python_lines_are_well_formed(kind):
    abilities = ("vision",) if kind == "vision-language" else ()
    text = how_to_call("http://127.0.0.1:9997", Model(id="it's-mine", model_type=kind, model_ability=abilities))
    curl = text.partition("With curl:\n")[2].partition("With Python")[0]
    words = shlex.split(curl)
    assert words[0] == "curl"
    assert any("it's-mine" in word for word in words)
    python = text.partition("pip install openai):\n")[2]
    ast.parse("\n".join(line.removeprefix("  ") for line in python.splitlines()))
