"""Reading the body of an inference request: its bytes once, and of their content only what routing needs."""

import io
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from xinfer.errors import InvalidRequest, PayloadTooLarge, UnsupportedEncoding
from xinfer.protocols.multipart import FormReader

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_NEEDS_MODEL = "'model' is required and must be a string; GET /v1/models lists the models"


class ClientGone(Exception):
    """The client closed its connection."""


class Body(msgspec.Struct, frozen=True):
    """A whole body, and the model that it asks for."""

    data: bytes
    model: str
    headers: tuple[tuple[str, str], ...] = ()
    """Request headers without which the bytes cannot be read."""


BodyReader = Callable[[Receive, Scope], Awaitable[Body]]


class _Routing(msgspec.Struct):
    """What routing needs of a body; everything else is skipped, not decoded."""

    model: str


_decoder = msgspec.json.Decoder(_Routing)


def limited(receive: Receive, scope: Scope, limit: int) -> Receive:
    """``receive``, but a body of over ``limit`` bytes raises PayloadTooLarge, at once where its length is declared.

    One that is compressed raises UnsupportedEncoding: how large it is shows only when it is read.
    """
    encoding = _header(scope, b"content-encoding").strip().lower()
    declared = _header(scope, b"content-length")
    size = int(declared) if len(declared) < 20 and declared.isdigit() else 0  # the body is counted in any case
    taken = 0

    async def take() -> MutableMapping[str, Any]:
        nonlocal taken
        if encoding not in {b"", b"identity"}:
            name = encoding.decode("latin-1")
            raise UnsupportedEncoding(f"the body is compressed ({name}); send it as it is, without content-encoding")
        if size > limit:
            raise PayloadTooLarge(f"the body has {size} bytes, the limit is {limit} (XINFER_MAX_BODY_BYTES)")
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            raise PayloadTooLarge(f"the body has over {limit} bytes, which is the limit (XINFER_MAX_BODY_BYTES)")
        return message

    return take


async def read_json(receive: Receive, _scope: Scope) -> Body:
    """A JSON object.

    Raises:
        PayloadTooLarge: it is over the limit of ``receive``.
        InvalidRequest: no JSON object, or without a model.
    """
    pieces: list[bytes] = []
    await _each_piece(receive, pieces.append)
    data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    return Body(data, _model_in(data))


async def read_form(receive: Receive, scope: Scope) -> Body:
    """A form with a file. It is looked through while it arrives, and never in memory twice.

    Raises:
        PayloadTooLarge: it is over the limit of ``receive``.
        InvalidRequest: no form, or without a model.
    """
    content_type = _header(scope, b"content-type").decode("latin-1")
    form = FormReader(content_type)
    data = io.BytesIO()  # grows in place, and gives its bytes away without a copy

    def take(piece: bytes) -> None:
        form.feed(piece)
        data.write(piece)

    await _each_piece(receive, take)
    form.finish()
    model = form.value("model")
    if not model:
        raise InvalidRequest(_NEEDS_MODEL, param="model")
    return Body(data.getvalue(), model, (("content-type", content_type),))


async def _each_piece(receive: Receive, take: Callable[[bytes], object]) -> None:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        take(message.get("body", b""))
        more = message.get("more_body", False)


def _model_in(data: bytes) -> str:
    try:
        return _decoder.decode(data).model
    except msgspec.ValidationError as error:
        text = str(error)
        if "$.model" in text or "`model`" in text:
            raise InvalidRequest(_NEEDS_MODEL, param="model") from None
        raise InvalidRequest("the body must be a JSON object with at least 'model'") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", param=None) from None


def _header(scope: Scope, wanted: bytes) -> bytes:
    found: bytes = next((value for name, value in scope["headers"] if name == wanted), b"")
    return found
