"""Every answer that is no success has the OpenAI error shape, whoever found the fault."""

import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from xinfer.channel.wire import Failure
from xinfer.errors import InvalidRequest, MethodNotAllowed, NotFound, XinferError
from xinfer.ops import Op

log = logging.getLogger(__name__)

NAMED_EVENTS = frozenset({Op.MESSAGES, Op.RESPONSES})
"""Operations whose streams have events with names. Clients of these do not look at one that has none."""


class RelayedError(XinferError):
    """An error that a replica sent, with the status and words it gave it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message, param=failure.param, retry_after=failure.retry_after)
        self.status = failure.status  # type: ignore[misc]  # per class elsewhere, per instance here
        self.type = failure.type  # type: ignore[misc]
        self.code = failure.code  # type: ignore[misc]


def error_response(error: XinferError, headers: Mapping[str, str] | None = None) -> Response:
    """The error as an HTTP response."""
    return Response(
        error.encode(),
        status_code=error.status,
        headers={**error.headers(), **(headers or {})},
        media_type="application/json",
    )


def sse_error(error: XinferError, op: Op) -> bytes:
    """The error as an event of a stream that has begun."""
    if op in NAMED_EVENTS:
        return b"event: error\ndata: " + msgspec.json.encode({"type": "error", **error.body()}) + b"\n\n"
    return b"data: " + error.encode() + b"\n\n"


def install(app: FastAPI) -> None:
    """Let the app answer with our shape instead of FastAPI's ``detail``."""

    @app.exception_handler(XinferError)
    async def on_xinfer_error(_request: Request, error: XinferError) -> Response:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(_request: Request, error: RequestValidationError) -> Response:
        return error_response(_explain(error.errors()[0]))

    @app.exception_handler(HTTPException)
    async def on_http_exception(request: Request, error: HTTPException) -> Response:
        cause = error.__cause__
        if isinstance(cause, XinferError):  # FastAPI wraps what reading the body raised
            return error_response(cause)
        return error_response(_translate(request, error), error.headers)

    @app.exception_handler(Exception)
    async def on_fault(request: Request, error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return error_response(XinferError("an internal error, it is in the server's log; please report it"))


def _explain(found: Mapping[str, Any]) -> InvalidRequest:
    """The first thing that pydantic found wrong. Its place is ("body", field, ...); further words may name a type."""
    if found["type"] == "json_invalid":
        return InvalidRequest(f"the body is not valid JSON: {found['ctx']['error']} (byte {found['loc'][-1]})")
    if isinstance(found["input"], bytes):
        return InvalidRequest("the body must be JSON, sent with the header 'content-type: application/json'")
    param = next((str(part) for part in found["loc"][1:]), None)
    return InvalidRequest(f"{param}: {found['msg']}" if param else f"the body: {found['msg']}", param=param)


def _translate(request: Request, error: HTTPException) -> XinferError:
    """FastAPI's own refusals."""
    what = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return NotFound(f"there is no {what}; /docs lists what there is")
    if error.status_code == 405:
        return MethodNotAllowed(f"{what} is not allowed; the header 'allow' says what is")
    return InvalidRequest(str(error.detail))
