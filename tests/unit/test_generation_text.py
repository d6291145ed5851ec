"""Streams of text: however they are cut into pieces, the same comes out."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.generation.detokenizer import ByteDetokenizer, WindowDetokenizer, byte_pieces
from xinfer.generation.reasoning import ReasoningSplitter, has_reasoning
from xinfer.generation.stop import StopStrings
from xinfer.generation.tool_calls import CallPart, ToolCallParser, has_tool_calls


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


def test_reasoning_is_found_in_template_or_vocabulary():
    assert has_reasoning("... </think> ...", {})
    assert has_reasoning("", {"<think>", "</think>"})
    assert not has_reasoning("plain", {"<think>"})


# --- tool calls ---


def parse_calls(pieces: list[str], *, single: bool = False) -> tuple[str, list[tuple[str, str]]]:
    ids = iter(range(100))
    parser = ToolCallParser(lambda: f"c{next(ids)}", single=single)
    results = [parser.feed(piece) for piece in pieces] + [parser.flush()]
    parts: list[CallPart] = [part for _, found in results for part in found]
    calls: list[tuple[str, str]] = []
    for part in parts:
        if part.id is not None:
            assert part.id == f"c{part.index}"
            calls.append((part.name or "", ""))
        name, arguments = calls[part.index]
        calls[part.index] = (name, arguments + part.arguments)
    assert parser.count == len(calls)
    return "".join(text for text, _ in results), calls


WEATHER = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": [1, 2]}}\n</tool_call>'
ARGUMENTS = '{"city": "Oslo", "days": [1, 2]}'


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("no call", "no call", []),
        ("ends with space ", "ends with space ", []),
        (WEATHER, "", [("weather", ARGUMENTS)]),
        (f"Let me see.\n{WEATHER}", "Let me see.", [("weather", ARGUMENTS)]),
        (f"{WEATHER}\n{WEATHER}\n", "", [("weather", ARGUMENTS)] * 2),
        ('<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', "", [("f", '{"a": 1}')]),
        ('<tool_call>{"name": "f"}</tool_call>', "", [("f", "{}")]),
        ('<tool_call>{"name": "f", "arguments": "{}"}</tool_call>', "", [("f", "{}")]),
        ('<tool_call>{"name": "say \\"hi\\"", "arguments": {}}</tool_call>', "", [('say "hi"', "{}")]),
        ('<tool_call>{"name": "f", "arguments": {"t": "}]\\"<"}}</tool_call>', "", [("f", '{"t": "}]\\"<"}')]),
        ('<tool_call>{"name": "f", "arguments": {"a": 1', "", [("f", '{"a": 1')]),
        ('<tool_call>{"arguments": {"a": 1}, "name": "f"}', "", [("f", '{"a": 1}')]),
        ("<tool_call>not json</tool_call> after", "<tool_call>not json</tool_call> after", []),
        ("<tool_call>cut off", "<tool_call>cut off", []),
        ("a <tool is not a call", "a <tool is not a call", []),
    ],
)
@given(data=st.data())
def test_calls_are_split_from_the_content(text, content, calls, data):
    assert parse_calls(data.draw(pieces_of(text))) == (content, calls)
    assert parse_calls(list(text)) == (content, calls)


def test_arguments_are_passed_on_while_they_are_written():
    parser = ToolCallParser(lambda: "c0")
    assert parser.feed('<tool_call>{"name": "f", "arg') == ("", [])
    assert parser.feed('uments": {"a') == ("", [CallPart(0, "", "c0", "f"), CallPart(0, '{"a')])
    assert parser.feed('": 1}') == ("", [CallPart(0, '": 1}')])
    assert parser.feed("}</tool_call>") == ("", [])


@given(data=st.data())
def test_a_single_call_ends_the_text(data):
    text = f"{WEATHER}\n{WEATHER} more"
    assert parse_calls(data.draw(pieces_of(text)), single=True) == ("", [("weather", ARGUMENTS)])


@given(
    st.dictionaries(st.text(max_size=5), st.text(max_size=10) | st.integers() | st.lists(st.none(), max_size=3)),
    st.data(),
)
def test_any_arguments_arrive_whole(arguments, data):
    written = json.dumps(arguments)
    text = f'<tool_call>\n{{"name": "f", "arguments": {written}}}\n</tool_call>'
    assert parse_calls(data.draw(pieces_of(text))) == ("", [("f", written)])


def test_the_form_of_calls_is_found_in_the_template():
    assert has_tool_calls("...<tool_call>...")
    assert not has_tool_calls("plain")
