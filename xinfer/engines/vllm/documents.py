"""What a reranking says of its documents: vLLM takes them as texts only, and always says them back."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import msgspec

from xinfer.engines.base import Call, Frame
from xinfer.engines.passthrough import AsgiCaller
from xinfer.protocols.rerank import Document

DOCUMENTS, RETURNED = "documents", "return_documents"

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_documents = msgspec.json.Decoder(list[str | Document])
_encoder = msgspec.json.Encoder()


def serve_reranking(caller: AsgiCaller, call: Call) -> AsyncIterator[Frame]:
    """Let vLLM answer what is asked in Cohere's and Jina's words."""
    call = msgspec.structs.replace(call, body=with_plain_documents(call.body))
    return _without_documents(caller, call) if wants_no_documents(call.body) else caller.serve(call)


async def _without_documents(caller: AsgiCaller, call: Call) -> AsyncGenerator[Frame, None]:
    async with contextlib.aclosing(caller.serve(call)) as frames:
        async for frame in frames:
            yield without_documents(frame) if isinstance(frame, bytes) else frame


def with_plain_documents(body: bytes) -> bytes:
    """The body with documents as texts where they are objects that hold one; any other body as it is."""
    if b'"text"' not in body:
        return body
    try:
        fields = _fields.decode(body)
        documents = _documents.decode(fields[DOCUMENTS])
    except (KeyError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return body  # vLLM says what is wrong
    texts = [document if isinstance(document, str) else document.text for document in documents]
    return _encoder.encode(fields | {DOCUMENTS: msgspec.Raw(_encoder.encode(texts))})


def wants_no_documents(body: bytes) -> bool:
    """Whether the answer shall not have them."""
    if f'"{RETURNED}"'.encode() not in body:
        return False
    with contextlib.suppress(KeyError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return bytes(_fields.decode(body)[RETURNED]) == b"false"
    return False


def without_documents(answer: bytes) -> bytes:
    """An answer of vLLM, without the documents."""
    fields = msgspec.json.decode(answer)
    for result in fields["results"]:
        result.pop("document", None)
    return _encoder.encode(fields)
