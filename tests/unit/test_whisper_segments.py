"""How Whisper's times are written and read."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.engines.whisper.marks import Marks, read_marks
from xinfer.engines.whisper.segments import Written, segments_of
from xinfer.errors import InvalidRequest, LoadFailed

END, TIMES = 100, 110
MARKS = Marks(
    end=END,
    start=101,
    previous=102,
    no_speech=103,
    no_times=TIMES - 1,
    transcribe=104,
    translate=105,
    languages={"en": 106, "de": 107},
)


def at(seconds):
    return TIMES + round(seconds / 0.02)


def cut(*tokens, length=30.0, start=0.0, **more):
    def text_of(ids):
        return "".join(f" {chr(97 + token)}" for token in ids)

    written = Written(tokens=list(tokens), **more)
    heard = segments_of(written, MARKS, text_of, start=start, length=length, temperature=0.0)
    return [(item.start, item.end, item.text) for item in heard.segments], round(heard.seconds, 2)


def test_a_text_between_two_times_is_a_segment_and_the_window_is_over():
    assert cut(at(0), 0, 1, at(2.5), start=30.0) == ([(30.0, 32.5, " a b")], 30.0)


def test_a_text_without_an_end_is_heard_again_from_where_it_begins():
    assert cut(at(0), 0, at(4), at(4), 1) == ([(0.0, 4.0, " a")], 4.0)
    assert cut(at(0), 0, at(4), at(5), 1, at(9)) == ([(0.0, 4.0, " a"), (5.0, 9.0, " b")], 30.0)
    assert cut(at(0), 0, at(4), at(4)) == ([(0.0, 4.0, " a")], 4.0)


def test_one_text_that_never_ends_lasts_as_long_as_the_window():
    assert cut(at(1), 0, 1, length=12.0) == ([(1.0, 12.0, " a b")], 12.0)


def test_times_beyond_the_sound_are_those_of_its_end():
    assert cut(at(0), 0, at(28), length=3.0) == ([(0.0, 3.0, " a")], 3.0)


def test_there_is_nothing_to_hear():
    assert cut() == ([], 30.0)
    assert cut(at(0)) == ([], 30.0)
    assert cut(at(0), at(0)) == ([], 30.0)
    assert cut(at(0), 0, at(2), no_speech_prob=0.9, avg_logprob=-2.0) == ([], 30.0)
    assert cut(at(0), 0, at(2), no_speech_prob=0.9, avg_logprob=-0.2) == ([(0.0, 2.0, " a")], 30.0)


@given(choices=st.lists(st.integers(0, 10**6), max_size=60))
def test_whatever_is_written_by_the_rules_has_segments_in_order_and_comes_to_an_end(choices):
    vocabulary = range(TIMES + 1501)
    written = []
    for choice in choices:
        spans = MARKS.forbidden(written)
        allowed = [token for token in vocabulary if not any(start <= token < stop for start, stop in spans)]
        token = allowed[choice % len(allowed)]
        if token == END:
            break
        written.append(token)
    segments, seconds = cut(*written)
    assert all(start < end for start, end, _ in segments)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(segments))
    assert 0 < seconds <= 30


def test_the_rules_of_times():
    def allowed(written, *tokens):
        spans = MARKS.forbidden(written)
        return [not any(start <= token < stop for start, stop in spans) for token in tokens]

    assert allowed([], 0, END, at(0), at(1), at(1.02)) == [False, False, True, True, False]
    assert allowed([at(1)], 0, END, at(1), at(2)) == [True, True, False, False]
    assert allowed([at(1), 0], 0, END, at(1), at(1.02)) == [True, True, False, True]
    assert allowed([at(1), 0, at(2)], 0, END, at(1.98), at(2)) == [False, True, False, True]
    assert allowed([at(1), 0, at(2), at(2)], 0, END, at(3)) == [True, True, False]
    assert allowed([0], MARKS.start, MARKS.no_times, MARKS.translate) == [False, False, False]


def test_prompts():
    assert MARKS.prompt("de", translate=False, room=5) == [101, 107, 104]
    assert MARKS.prompt("de", translate=True, before=[1, 2, 3], room=2) == [102, 2, 3, 101, 107, 105]
    with pytest.raises(InvalidRequest, match="it knows de, en") as refused:
        MARKS.prompt("xx", translate=False, room=5)
    assert refused.value.param == "language"


def test_a_model_that_knows_only_english_has_no_task_in_its_prompt():
    ids = {"<|startoftranscript|>": 1, "<|notimestamps|>": 5, "<|nocaptions|>": 4, "<|transcribe|>": 2}
    marks = read_marks({"is_multilingual": False, "lang_to_id": {"<|en|>": 3}}, ids.get, 0)
    assert marks.prompt("en", translate=False, room=5) == [1]
    assert (marks.languages, marks.no_speech, marks.times) == ({}, 4, 6)


def test_another_vocabulary_is_no_whisper():
    with pytest.raises(LoadFailed, match="startoftranscript"):
        read_marks({}, {}.get, 0)
