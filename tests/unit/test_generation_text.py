"""Streams of text: however they are cut into pieces, the same comes out."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.generation.detokenizer import ByteDetokenizer, MarkedDetokenizer, WindowDetokenizer, byte_pieces
from xinfer.generation.harmony import HarmonySplitter
from xinfer.generation.marks import shown_marks
from xinfer.generation.reasoning import ReasoningSplitter, reasoning_form
from xinfer.generation.stop import StopStrings


@st.composite
def pieces_of(draw, text: str) -> list[str]:
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@st.composite
def batches_of(draw, tokens: list[int]) -> list[list[int]]:
    cuts = sorted(draw(st.lists(st.integers(0, len(tokens)), max_size=8)))
    return [tokens[start:end] for start, end in zip([0, *cuts], [*cuts, len(tokens)], strict=True)]


# --- stop strings ---

few_letters = st.text("abc", max_size=30)


@given(few_letters, st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=3), st.data())
def test_stop_strings_cut_where_the_first_one_is_complete(text, stops, data):
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    end = min(ends, default=len(text))
    longest = max((len(stop) for stop in stops if ends and text[:end].endswith(stop)), default=0)
    checker = StopStrings(stops)
    shown, stopped = "", False
    for piece in data.draw(pieces_of(text)):
        out, stopped = checker.feed(piece)
        shown += out
        assert text.startswith(shown)
        if stopped:
            break
    if not stopped:
        shown += checker.flush()
    assert shown == text[: end - longest]
    assert stopped == bool(ends)


@given(few_letters, st.text("abc", min_size=1, max_size=5), st.data())
def test_one_stop_string_is_what_find_says(text, stop, data):
    checker = StopStrings([stop])
    shown = ""
    for piece in data.draw(pieces_of(text)):
        out, stopped = checker.feed(piece)
        shown += out
        if stopped:
            break
    else:
        shown += checker.flush()
    assert shown == text.split(stop)[0]


def test_only_what_could_begin_a_stop_string_is_held_back():
    checker = StopStrings(["END"])
    assert checker.feed("text E") == ("text ", False)
    assert checker.feed("N") == ("", False)
    assert checker.feed("x") == ("ENx", False)
    assert checker.flush() == ""


def test_a_stop_string_takes_no_more_memory_than_its_text():
    tracemalloc.start()
    try:
        checker = StopStrings(["x" * 100_000, "y" * 100_000])
        assert checker.feed("x" * 50_000) == ("", False)
        assert checker.feed("y") == ("x" * 50_000, False)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert checker.flush() == "y"


# --- tokens to text ---

ALPHABET = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
LETTERS = {byte: chr(byte) for byte in ALPHABET}
LETTERS.update({byte: chr(256 + index) for index, byte in enumerate(b for b in range(256) if b not in set(ALPHABET))})
BYTE_LEVEL = {
    "decoder": {"type": "ByteLevel"},
    "model": {"vocab": {LETTERS[byte]: byte for byte in range(256)}},
    "added_tokens": [
        {"id": 256, "content": "<end>", "special": True},
        {"id": 257, "content": "<think>", "special": True},
        {"id": 258, "content": "two words", "special": False},
    ],
}


def test_pieces_of_a_byte_level_tokenizer():
    pieces = byte_pieces(BYTE_LEVEL, 260, visible=["<think>"])
    assert pieces is not None
    assert pieces[:256] == [bytes([byte]) for byte in range(256)]
    assert pieces[256:] == [b"", b"<think>", b"two words", b""]
    assert byte_pieces({"decoder": {"type": "Sequence", "decoders": [{"type": "Fuse"}]}}, 4) is None
    assert byte_pieces({"decoder": None}, 4) is None


@given(st.lists(st.integers(0, 255) | st.sampled_from([0xC3, 0xA9, 0xF0, 0x9F, 0x98, 0x80]), max_size=40), st.data())
def test_bytes_become_text_as_if_decoded_at_once(tokens, data):
    detokenizer = ByteDetokenizer(byte_pieces(BYTE_LEVEL, 260) or [])
    expected = bytes(tokens).decode("utf-8", "replace")
    shown = ""
    for batch in data.draw(batches_of(tokens)):
        shown += detokenizer.feed(batch)
        assert expected.startswith(shown)
    assert shown + detokenizer.flush() == expected


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_no_character_is_shown_before_its_last_byte(text):
    detokenizer = ByteDetokenizer(byte_pieces(BYTE_LEVEL, 260) or [])
    shown = [detokenizer.feed([byte]) for byte in text.encode()]
    assert [piece for piece in shown if piece] == list(text)


WORDS = ["▁Hello", "▁world", "ly", "<0xC3>", "<0xA9>", "!", "▁"]


def decode_words(tokens) -> str:
    """As SentencePiece decoders do: bytes are joined, spaces come from the letter, and the first one is dropped."""
    out = bytearray()
    for token in tokens:
        word = WORDS[token]
        out += bytes([int(word[3:5], 16)]) if word.startswith("<0x") else word.replace("▁", " ").encode()
    return out.decode("utf-8", "replace").removeprefix(" ")


@given(st.lists(st.integers(0, len(WORDS) - 1), max_size=30))
def test_a_window_gives_what_decoding_at_once_gives(tokens):
    # A lone continuation byte reads differently depending on what follows; only whole characters are compared.
    if "\ufffd" in decode_words(tokens):
        return
    detokenizer = WindowDetokenizer(decode_words)
    shown = "".join(detokenizer.feed([token]) for token in tokens) + detokenizer.flush()
    assert shown == decode_words(tokens)


MARKS = {100: "[CALL]", 101: "[ARGS]"}


@given(st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 100, 101]), max_size=30), st.data())
def test_marks_stay_visible_between_pieces_of_text(tokens, data):
    detokenizer = MarkedDetokenizer(lambda: WindowDetokenizer(decode_words), MARKS)
    expected, between = "", []
    for token in tokens:
        if token in MARKS:
            expected, between = expected + decode_words(between) + MARKS[token], []
        else:
            between.append(token)
    expected += decode_words(between)
    if "\ufffd" in expected:
        return
    assert "".join(map(detokenizer.feed, data.draw(batches_of(tokens)))) + detokenizer.flush() == expected


def test_the_marks_that_stay_visible_are_those_of_the_template():
    assert shown_marks("plain") == {"<think>", "</think>"}
    assert shown_marks("<tool_call>") >= {"<think>", "<tool_call>", "</tool_call>"}
    assert "[ARGS]" in shown_marks("[TOOL_CALLS]")
    assert "<|channel|>" in shown_marks("<|channel|> analysis functions")


# --- thoughts ---


def split_thoughts(prompt: str, pieces: list[str]) -> tuple[str, str]:
    splitter = ReasoningSplitter(prompt)
    results = [splitter.feed(piece) for piece in pieces] + [splitter.flush()]
    return "".join(thoughts for thoughts, _ in results), "".join(text for _, text in results)


@pytest.mark.parametrize(
    ("prompt", "text", "split"),
    [
        ("assistant\n", "<think>\nhm, so\n</think>\n\nyes", ("hm, so", "yes")),
        ("assistant\n", "just an answer", ("", "just an answer")),
        ("assistant\n", "  indented", ("", "  indented")),
        ("assistant\n", "<think></think>yes", ("", "yes")),
        ("assistant\n", "<think>never done", ("never done", "")),
        ("assistant\n", "<thin ice", ("", "<thin ice")),
        ("assistant\n", "<th", ("", "<th")),
        ("assistant\n<think>\n", "hm\n</think>\nyes", ("hm", "yes")),
        ("assistant\n<think>\n", "a </thin b </think>c", ("a </thin b", "c")),
        ("assistant\n<think>\n\n</think>\n\n", "yes </think> no", ("", "yes </think> no")),
    ],
)
@given(data=st.data())
def test_thoughts_are_split_from_the_answer(prompt, text, split, data):
    assert split_thoughts(prompt, data.draw(pieces_of(text))) == split
    assert split_thoughts(prompt, list(text)) == split


@pytest.mark.parametrize(
    ("template", "start", "end"),
    [
        ("{{ '<seed:think>' }}{{ '</seed:think>' }}", "<seed:think>", "</seed:think>"),
        ("{% set a = '<mm:think>' %}{% set b = '</mm:think>' %}", "<mm:think>", "</mm:think>"),
        ("<|START_THINKING|>{{ message.reasoning }}<|END_THINKING|>", "<|START_THINKING|>", "<|END_THINKING|>"),
        ("{{ '<|channel>thought\\n' }}{{ message.reasoning }}<channel|>", "<|channel>thought", "<channel|>"),
        ("[THINK]{{ message.reasoning }}[/THINK]", "[THINK]", "[/THINK]"),
    ],
)
def test_the_tags_around_thoughts_are_those_of_the_template(template, start, end):
    form = reasoning_form(template)
    assert set(form.marks) == {mark for mark in shown_marks(template) if "think>" not in mark or ":" in mark}
    splitter = form.splitter("assistant\n")
    assert splitter.feed(f"{start}\nhm\n{end}\nyes") == ("hm", "yes")
    assert form.splitter(f"assistant\n{start}{end}") is None


CHANNELS = [
    ("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.", ("Hm.", "Yes.")),
    (
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>analysis<|message|>b<|end|>"
            "<|start|>assistant<|channel|>final<|message|>c"
        ),
        ("a\nb", "c"),
    ),
    (
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>final<|message|>c",
        ("", "I look.\nc"),
    ),
    ("<|channel|>final <|constrain|>json<|message|>{}<|return|>", ("", "{}")),
    ("<|channel|>analysis<|message|>cut o", ("cut o", "")),
    ("<|channel|>analysis<|message|>cut <|e", ("cut <|e", "")),
    ("<|channel|>fin", ("", "")),
    ("just an answer", ("", "just an answer")),
    ("assembled without marks", ("", "assembled without marks")),
    (
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary to=functions.f "
            '<|constrain|>json<|message|>{"x": 1}<|call|>'
        ),
        ("a", '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"x": 1}<|call|>'),
    ),
    (
        " to=functions.f<|channel|>commentary<|message|>{}",
        ("", "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}"),
    ),
]


@pytest.mark.parametrize(("text", "split"), CHANNELS)
@given(data=st.data())
def test_channels_are_thoughts_answers_and_calls(text, split, data):
    def read(pieces: list[str]) -> tuple[str, str]:
        splitter = HarmonySplitter()
        results = [splitter.feed(piece) for piece in pieces] + [splitter.flush()]
        return "".join(thoughts for thoughts, _ in results), "".join(answer for _, answer in results)

    assert read(list(text)) == read([text]) == split
    assert read(data.draw(pieces_of(text))) == split


def test_a_splitter_knows_when_it_is_in_thoughts():
    splitter = HarmonySplitter()
    states = []
    for piece in (
        "<|channel|>analysis<|message|>",
        "Hm.",
        "<|end|>",
        "<|start|>assistant<|channel|>final<|message|>",
        "a",
    ):
        splitter.feed(piece)
        states.append(splitter.thinking)
    assert states == [True, True, False, False, False]
    assert not splitter.over
    tagged = ReasoningSplitter("[THINK]", "[THINK]", "[/THINK]")
    assert tagged.thinking
    assert tagged.feed("a[/THINK]b") == ("a", "b")
    assert (tagged.thinking, tagged.over) == (False, True)


def test_a_prompt_that_closes_the_thoughts_leaves_none_to_split():
    form = reasoning_form("</think>")
    assert form.splitter("<think></think>\n") is None
    assert form.splitter("<think>\n") is not None
    assert isinstance(reasoning_form("<|channel|> analysis").splitter("x"), HarmonySplitter)


def test_reasoning_is_found_in_template_or_vocabulary():
    assert reasoning_form("... </think> ...") is reasoning_form("", {"<think>", "</think>"}) is not None
    assert reasoning_form("plain", {"<think>"}) is None
    assert reasoning_form("... [THINK] ... [/THINK]").end == "[/THINK]"
