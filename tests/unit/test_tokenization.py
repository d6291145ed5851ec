"""Tokens of texts and chats, and texts of tokens, as a token engine answers for its model."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from xinfer.engines.base import Call
from xinfer.engines.token_engine.job import JobMaker
from xinfer.engines.token_engine.prompts import Limits
from xinfer.engines.token_engine.tokenization import Tokenization
from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.generation.chat_template import ChatTemplate
from xinfer.generation.detokenizer import ByteDetokenizer
from xinfer.ops import Op

BEGIN, TURN = 256, 257
TEMPLATE = (
    "{% for m in messages %}<turn>{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if tools %}tools{% endif %}{% if add_generation_prompt %}<turn>assistant: {% endif %}"
)
CHAT = [{"role": "user", "content": "hi"}]


class Letters:
    """Every byte is a token; two more are special."""

    vocabulary = frozenset({"<begin>", "<turn>"})

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        first, *rest = text.split("<turn>")
        ids = [BEGIN] if add_special else []
        return ids + list(first.encode()) + [token for part in rest for token in (TURN, *part.encode())]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(token for token in ids if token < BEGIN).decode("utf-8", "replace")

    def detokenizer(self) -> ByteDetokenizer:
        return ByteDetokenizer(self.pieces())

    def pieces(self) -> list[bytes]:
        return [*(bytes([byte]) for byte in range(256)), b"", b""]

    def token_bytes(self, token: int) -> bytes:
        return {BEGIN: b"<begin>", TURN: b"<turn>"}.get(token) or bytes([token])


def jobs_of(template: str = TEMPLATE, beginning: tuple[int, ...] = ()) -> JobMaker:
    chat = ChatTemplate(template, {}) if template else None
    return JobMaker(Letters(), chat, LIMITS, frozenset(), "e", control_tokens={"<turn>"}, beginning=beginning)


LIMITS = Limits(context_length=99, vocabulary_size=258)


def tokenize(jobs: JobMaker | None = None, **fields: Any) -> dict[str, Any]:
    service = Tokenization(jobs or jobs_of(), Letters(), LIMITS)
    answer: dict[str, Any] = json.loads(
        service.answer(*service.read(json.dumps({"model": "m", **fields}).encode()), ())
    )
    return answer


def detokenize(*tokens: int) -> str:
    body = json.dumps({"model": "m", "tokens": tokens}).encode()
    text: str = json.loads(Tokenization(jobs_of(), Letters(), LIMITS).text(body))["prompt"]
    return text


def test_a_text_has_what_the_model_wants_around_it_unless_it_shall_not():
    answer = tokenize(prompt="ab")
    assert answer == {"count": 3, "max_model_len": 99, "tokens": [BEGIN, 97, 98], "token_strs": None}
    assert tokenize(prompt="ab", add_special_tokens=False)["tokens"] == [97, 98]
    assert tokenize(prompt="ab", return_token_strs=True)["token_strs"] == ["<begin>", "a", "b"]
    assert tokenize(prompt="", add_special_tokens=False)["count"] == 0


def test_a_chat_is_rendered():
    assert detokenize(*tokenize(messages=CHAT)["tokens"]) == "<turn>user: hi\n<turn>assistant: "
    bare = tokenize(messages=CHAT, add_generation_prompt=False)["tokens"]
    begun = tokenize(messages=[*CHAT, {"role": "assistant", "content": "so "}], continue_final_message=True)["tokens"]
    assert begun == [*bare, TURN, *b"assistant: so "]
    assert detokenize(*bare) == "<turn>user: hi\n"
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert "tools" in detokenize(*tokenize(messages=CHAT, tools=tools)["tokens"])


def test_a_chat_has_the_tokens_that_answering_it_would_count():
    jobs = jobs_of(beginning=(BEGIN,))
    written = [{"role": "user", "content": "what is <turn> for?"}]
    call = Call("id", Op.CHAT, json.dumps({"model": "m", "messages": written}).encode())
    ids = jobs.make(call, jobs.read(call), 0).prompts[0].ids
    assert tokenize(jobs, messages=written)["tokens"] == ids
    assert [token for token in ids if token >= BEGIN] == [BEGIN, TURN, TURN], "once, and what is written is mere text"


def test_a_template_may_write_the_beginning_itself():
    jobs = jobs_of(beginning=(TURN,))
    assert tokenize(jobs, messages=CHAT)["tokens"].count(TURN) == 2


def test_tokens_become_text():
    assert detokenize() == ""
    assert detokenize(BEGIN, 0xC3, 0xA9, TURN, 33) == "<begin>é<turn>!"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "messages": CHAT}, "prompt"),
        ({"prompt": "a", "tools": [{}]}, "tools"),
        ({"prompt": 3}, "prompt"),
        ({"messages": []}, "messages"),
        ({"messages": CHAT, "continue_final_message": True}, "continue_final_message"),
        ({"prompt": "a", "continue_final_message": True}, "continue_final_message"),
        ({"messages": [{"role": "nobody"}]}, "messages[0].role"),
        ({"prompt": "a", "return_token_strs": "yes"}, "return_token_strs"),
    ],
)
def test_what_is_wrong_is_named(fields, param):
    with pytest.raises(InvalidRequest) as caught:
        tokenize(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": CHAT, "add_special_tokens": True},
        {"prompt": "a", "truncate_prompt_tokens": 3},
    ],
)
def test_what_is_not_done_is_refused(fields):
    with pytest.raises(UnsupportedParameter):
        tokenize(**fields)


def test_a_model_without_a_template_has_no_chats():
    with pytest.raises(InvalidRequest, match="no chat template"):
        tokenize(jobs_of(template=""), messages=CHAT)


def test_tokens_that_the_model_does_not_have_are_refused():
    with pytest.raises(InvalidRequest, match="below 258"):
        detokenize(1, 258)
