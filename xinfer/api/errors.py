"""Every answer that is no success has the OpenAI error shape, whoever found the fault."""

import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from xinfer.channel.wire import Failure
from xinfer.errors import InvalidRequest, NotFound, XinferError

log = logging.getLogger(__name__)


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


def sse_error(error: XinferError) -> bytes:
    """The error as an event of a stream that has begun."""
    return b"data: " + error.encode() + b"\n\n"


def install(app: FastAPI) -> None:
    """Let the app answer with our shape instead of FastAPI's ``detail``."""

    @app.exception_handler(XinferError)
    async def on_xinfer_error(_request: Request, error: XinferError) -> Response:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
        param = ".".join(place) or None
        what = f"{param}: {first['msg']}" if param else f"the request body is not valid: {first['msg']}"
        return error_response(InvalidRequest(what, param=param))

    @app.exception_handler(HTTPException)
    async def on_http_exception(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return error_response(
                NotFound(f"there is no {request.method} {request.url.path}; /docs lists what there is")
            )
        body: dict[str, Any] = InvalidRequest(str(error.detail)).body()
        if error.status_code == 405:
            body["error"]["message"] = f"{request.method} is not allowed on {request.url.path}"
            body["error"]["code"] = "method_not_allowed"
        return Response(
            msgspec.json.encode(body), error.status_code, dict(error.headers or {}), media_type="application/json"
        )

    @app.exception_handler(Exception)
    async def on_fault(request: Request, error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return error_response(XinferError("an internal error, it is in the server's log; please report it"))
