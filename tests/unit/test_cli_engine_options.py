import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.cli.engine_options import join_pairs, scalar, split_engine_options

KNOWN = {"-n": 1, "--model-name": 1, "--wait": 0, "--no-wait": 0}


@pytest.mark.parametrize(
    ("line", "ours", "engine"),
    [
        ("demo-chat", ["demo-chat"], {}),
        ("demo-chat --max-len 4096", ["demo-chat"], {"max_len": 4096}),
        ("--max-len 4096 demo-chat", ["demo-chat"], {"max_len": 4096}),
        ("demo-chat --max_len=4096", ["demo-chat"], {"max_len": 4096}),
        ("demo-chat --eager --wait", ["demo-chat", "--wait"], {"eager": True}),
        ("demo-chat --eager", ["demo-chat"], {"eager": True}),
        ("demo-chat --seed -1 --low -.5", ["demo-chat"], {"seed": -1, "low": "-.5"}),
        ("demo-chat --file -", ["demo-chat"], {"file": "-"}),
        ("-n --odd --wait x", ["-n", "--odd", "--wait", "x"], {}),
        ("--model-name=a --b c", ["--model-name=a"], {"b": "c"}),
        ("demo-chat -z", ["demo-chat", "-z"], {}),
        ("demo-chat --a=b=c", ["demo-chat"], {"a": "b=c"}),
        ("-- --file", ["--", "--file"], {}),
    ],
)
def test_unknown_options_go_to_the_engine(line, ours, engine):
    assert split_engine_options(line.split(), KNOWN) == (ours, engine)


@given(st.dictionaries(st.from_regex(r"[a-z]{3,8}", fullmatch=True), st.integers() | st.booleans(), max_size=5))
def test_every_engine_option_arrives_wherever_the_model_stands(options):
    words = [word for key, value in options.items() for word in (f"--x-{key}", str(value))]
    expected = {f"x_{key}": value for key, value in options.items()}
    assert split_engine_options([*words, "model"], KNOWN) == (["model"], expected)
    assert split_engine_options(["model", *words], KNOWN) == (["model"], expected)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        ("-0.5", -0.5),
        ("true", True),
        ("True", True),
        ("None", None),
        ("null", None),
        ('"4"', "4"),
        ("0_5", "0_5"),
        ("007", "007"),
        ("NaN", "NaN"),
        ("bf16", "bf16"),
        ('{"a": [1]}', {"a": [1]}),
        ("", ""),
    ],
)
def test_values_are_what_json_reads_them_as(text, value):
    assert scalar(text) == value


@pytest.mark.parametrize(
    ("line", "joined"),
    [
        ("-ev A 1 m", "-ev A=1 m"),
        ("-ev A=1 m", "-ev A=1 m"),
        ("--env A 1 --env B 2", "--env A=1 --env B=2"),
        ("m -ev A", "m -ev A"),
        ("m -ev", "m -ev"),
    ],
)
def test_an_environment_variable_may_be_two_words(line, joined):
    assert join_pairs(line.split(), ("-ev", "--env")) == joined.split()
