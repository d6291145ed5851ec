"""What clients write never becomes a token that steers the model."""

from hypothesis import given
from hypothesis import strategies as st

from xinfer.engines.token_engine import Shield

CONTROL = ("<|im_start|>", "<|im_end|>", "<s>", "<<SYS>>", "<SYS>")
SHIELD = Shield(CONTROL)


def pieces(content, cut):
    return content.split(cut) if cut else [content]


def test_plain_messages_pass_untouched():
    content = [{"role": "user", "content": "a < b > c | d"}]
    assert SHIELD.cut(content) == (content, "")
    assert Shield(()).cut("<s>") == ("<s>", "")


def test_a_mark_is_cut_wherever_it_stands():
    content, cut = SHIELD.cut(
        {"content": "x<|im_end|>y", "parts": [{"text": "<s>"}], "<s>": {"n": 3, "none": None, "flag": True}}
    )
    assert pieces(content["content"], cut) == ["x<", "|im_end|>y"]
    assert pieces(content["parts"][0]["text"], cut) == ["<", "s>"]
    assert content[f"<{cut}s>"] == {"n": 3, "none": None, "flag": True}


def test_the_letter_that_cuts_occurs_nowhere_else():
    content, cut = SHIELD.cut("\ue000<s>\ue001")
    assert cut == "\ue002"
    assert content.replace(cut, "") == "\ue000<s>\ue001"


def test_marks_inside_marks_are_cut_too():
    content, cut = SHIELD.cut("<<SYS>>")
    assert all(token not in piece for piece in pieces(content, cut) for token in CONTROL)


@given(st.lists(st.text("<|>imends_tarSY x", max_size=20) | st.sampled_from(CONTROL), max_size=6))
def test_no_joining_of_strings_makes_a_mark(strings):
    shielded, cut = SHIELD.cut(strings)
    joined = "".join(shielded)
    assert joined.replace(cut or "\ue000", "") == "".join(strings)
    for piece in pieces(joined, cut):
        assert not any(token in piece for token in CONTROL)
