"""Images on their way from the messages into a prompt, with a reader that writes their digests."""

import base64
import json
import struct
from collections.abc import Callable, Sequence

import pytest

from xinfer.engines.base import Call
from xinfer.engines.image_header import ImageHeader
from xinfer.engines.media import Image
from xinfer.engines.token_engine import HONOURED, Limits
from xinfer.engines.token_engine.job import JobMaker
from xinfer.engines.token_engine.tokenizer import begun
from xinfer.errors import ContextOverflow, InvalidRequest, UnsupportedParameter
from xinfer.generation.chat_template import ChatTemplate
from xinfer.generation.detokenizer import ByteDetokenizer
from xinfer.ops import Op

PARTS = (
    "{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
    "{% if p.type == 'image' %}<img>{% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
)
TEXTS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
TEXT_PARTS = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
USERS_ONLY = (
    "{% for m in messages %}{% if m.role == 'user' %}{% for p in m.content %}"
    "{% if p.type == 'image' %}<img>{% endif %}{% endfor %}{% else %}{{ m.role }}{% endif %}{% endfor %}"
)
URL = "data:image/gif;base64," + base64.b64encode(b"GIF89a" + struct.pack("<HH", 2, 2)).decode()


class BytesTokenizer:
    """Every byte is a token."""

    vocabulary = frozenset[str]()

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode()

    def detokenizer(self) -> ByteDetokenizer:
        return ByteDetokenizer(self.pieces())

    def pieces(self) -> list[bytes]:
        return [bytes([byte]) for byte in range(256)]

    def token_bytes(self, token: int) -> bytes:
        return bytes([token])


class DigestReader:
    """Puts ``(DIGEST)`` in the place of every image."""

    mark = "<img>"

    def __init__(self, *, template_writes_mark: bool = True) -> None:
        self.template_writes_mark = template_writes_mark

    def prompt(
        self,
        text: str,
        images: Sequence[Image],
        encode: Callable[[str], list[int]],
        beginning: Sequence[int] = (),
    ) -> tuple[list[int], list[str]]:
        for image in images:
            text = text.replace(self.mark, f"({image.digest})", 1)
        return begun(encode(text), beginning), [image.digest for image in images]


def image_of(digest: str) -> Image:
    return Image("messages[0].content[0].image_url", b"", ImageHeader("GIF", 2, 2), digest)


def prompt_of(
    messages: list[dict[str, object]],
    template: str,
    *,
    reader: object = None,
    context: int = 500,
    beginning: bytes = b"",
):
    """The prompt that is made of messages whose images have the digests A, B, and so on."""
    limits = Limits(context_length=context, vocabulary_size=256)
    reader = reader or DigestReader()
    jobs = JobMaker(
        BytesTokenizer(), ChatTemplate(template, {}), limits, HONOURED, "toy", reader=reader, beginning=list(beginning)
    )
    call = Call("id", Op.CHAT, json.dumps({"model": "m", "messages": messages}).encode(), "m")
    request = jobs.read(call)
    images = [image_of(chr(ord("A") + index)) for index in range(len(request.images))]
    return jobs.make(call, request, 0, images).prompts[0]


def message(*parts: str, role: str = "user") -> dict[str, object]:
    """Of texts; an empty one is an image."""
    content = [
        {"type": "text", "text": part} if part else {"type": "image_url", "image_url": {"url": URL}} for part in parts
    ]
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("template", "writes", "text"),
    [
        (PARTS, True, "[user]see (A)(B) and[assistant]what[user](C)"),
        (PARTS, False, "[user]see (A)(B) and[assistant]what[user](C)"),
        (TEXTS, True, "[user]see \n(A)\n(B)\n and[assistant]what[user](C)"),
        (TEXT_PARTS, False, "see (A)(B) andwhat(C)"),
    ],
    ids=["parts", "parts as texts", "one text", "text parts"],
)
def test_images_are_where_the_template_has_them(template, writes, text):
    messages = [message("see ", "", "", " and"), {"role": "assistant", "content": "what"}, message("")]
    prompt = prompt_of(messages, template, reader=DigestReader(template_writes_mark=writes))
    assert bytes(prompt.ids).decode() == text
    assert prompt.images == ["A", "B", "C"]
    assert prompt.text == text.replace("(A)", "<img>").replace("(B)", "<img>").replace("(C)", "<img>")


@pytest.mark.parametrize("parts", [["see"], ["see", ""]])
def test_prompts_begin_as_the_model_wants_it_once(parts):
    for template in (PARTS, ">" + PARTS):
        prompt = prompt_of([message(*parts)], template, beginning=b">")
        assert bytes(prompt.ids).startswith(b">[user]see")


def test_messages_without_images_are_as_ever():
    prompt = prompt_of([message("just ", "text")], PARTS)
    assert (prompt.text, prompt.images) == ("[user]just text", None)


def test_marks_that_a_client_writes_are_text():
    prompt = prompt_of([message("<img>", "", "<im", "g>")], PARTS)
    assert bytes(prompt.ids).decode() == "[user]<img>(A)<img>"
    assert prompt.images == ["A"]


@pytest.mark.parametrize("template", [TEXT_PARTS, USERS_ONLY])
def test_an_image_that_the_template_leaves_out_is_refused(template):
    messages = [message("", role="user"), {**message("", role="tool"), "tool_call_id": "c"}]
    with pytest.raises(InvalidRequest, match=r"has a place for [01] of them"):
        prompt_of(messages, template)


def test_what_an_image_takes_counts_against_the_context():
    with pytest.raises(ContextOverflow, match="the prompt alone has 9"):
        prompt_of([message("")], PARTS, context=9)


def test_models_that_do_not_see_refuse_by_the_place():
    limits = Limits(context_length=100, vocabulary_size=256)
    jobs = JobMaker(BytesTokenizer(), ChatTemplate(PARTS, {}), limits, HONOURED, "toy")
    body = json.dumps({"model": "m", "messages": [message("see", "")]}).encode()
    with pytest.raises(UnsupportedParameter, match="reads text only") as caught:
        jobs.read(Call("id", Op.CHAT, body, "m"))
    assert caught.value.param == "messages[0].content[1].image_url"
