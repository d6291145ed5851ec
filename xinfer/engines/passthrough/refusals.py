"""An error answer of another server, as one of ours: users meet one shape of errors, whatever the engine."""

import re

import msgspec

from xinfer.errors import (
    ContextOverflow,
    EngineFailed,
    InvalidRequest,
    NotFound,
    NotReady,
    TooManyRequests,
    XinferError,
)

_TOO_LONG = re.compile(r"maximum context length|context length|max_model_len|longer than the model", re.IGNORECASE)
DATA, ERROR_EVENT = b"data: ", b'data: {"error"'
"""How the events of a stream begin."""
ERROR_STATUSES = range(400, 600)
INTERNAL_ERROR = 500
BODY = "body."
"""What FastAPI's applications call a request, before the name of a field."""
MAX_SHOWN = 2000
"""Characters of an answer that is no JSON."""


class _Error(msgspec.Struct):
    message: str = ""
    param: str | None = None


class _OpenAIShape(msgspec.Struct):
    error: _Error


class _Code(msgspec.Struct):
    code: int = 0


class _WithCode(msgspec.Struct):
    error: _Code


class _FlatShape(msgspec.Struct):
    """Some servers put the fields of the error at the top."""

    message: str
    param: str | None = None


class _DetailShape(msgspec.Struct):
    """What FastAPI answers by itself."""

    detail: object


def refusal(status: int, body: bytes) -> XinferError:
    """What another server meant by an answer with an error status.

    A 4xx keeps its meaning for the client; everything else is a failure of the engine.
    """
    message, param = _read(body)
    param = param.removeprefix(BODY) if param else None
    message = message or f"the engine answered with status {status}"
    if 400 <= status < 500 and _TOO_LONG.search(message):
        return ContextOverflow(message, param=param)
    kinds: dict[int, type[XinferError]] = {404: NotFound, 429: TooManyRequests, 503: NotReady}
    kind = kinds.get(status) or (InvalidRequest if 400 <= status < 500 else EngineFailed)
    return kind(message, param=param)


def refusal_in_stream(data: bytes) -> XinferError | None:
    """What another server meant by a stream that is an error from its first event on.

    ``None``: the stream begins with something else.
    """
    error = error_in_stream(data)
    return refusal(*error) if error is not None else None


def error_in_stream(data: bytes) -> tuple[int, bytes] | None:
    """Status and body of the error answer that a stream should have been, by its first event.

    Such a server has answered with a status that says success before it has looked at the whole request.
    ``None``: the stream begins with something else.
    """
    if not data.startswith(ERROR_EVENT):
        return None
    event = data.partition(b"\n")[0].removeprefix(DATA)
    try:
        status = msgspec.json.decode(event, type=_WithCode).error.code
    except (msgspec.MsgspecError, UnicodeDecodeError):
        status = 0
    return status if status in ERROR_STATUSES else INTERNAL_ERROR, event


def _read(body: bytes) -> tuple[str, str | None]:
    shapes: tuple[type[_OpenAIShape | _FlatShape | _DetailShape], ...] = (_OpenAIShape, _FlatShape, _DetailShape)
    for shape in shapes:
        try:
            found = msgspec.json.decode(body, type=shape)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if isinstance(found, _DetailShape):
            return str(found.detail), None
        return (
            (found.error.message, found.error.param)
            if isinstance(found, _OpenAIShape)
            else (found.message, found.param)
        )
    return body.decode(errors="replace").strip()[:MAX_SHOWN], None
