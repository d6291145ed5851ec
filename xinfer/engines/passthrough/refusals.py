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
MAX_SHOWN = 2000
"""Characters of an answer that is no JSON."""


class _Error(msgspec.Struct):
    message: str = ""
    param: str | None = None


class _OpenAIShape(msgspec.Struct):
    error: _Error


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
    message = message or f"the engine answered with status {status}"
    if 400 <= status < 500 and _TOO_LONG.search(message):
        return ContextOverflow(message, param=param)
    kinds: dict[int, type[XinferError]] = {404: NotFound, 429: TooManyRequests, 503: NotReady}
    kind = kinds.get(status) or (InvalidRequest if 400 <= status < 500 else EngineFailed)
    return kind(message, param=param)


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
