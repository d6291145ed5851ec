"""Every error a user can meet, each with its wire status.

XinferError                      500 internal_error
├── InvalidRequest               400 invalid_value           a parameter is wrong; ``param`` names it
│   ├── UnsupportedParameter     400 unsupported_parameter   right in itself, but this engine cannot honour it
│   ├── ContextOverflow          400 context_length_exceeded
│   └── InvalidSliceRequest      422 invalid_slice_request   a device slice that no device could ever be asked for
├── Unauthorized                 401 invalid_api_key
├── PathNotAllowed               403 path_not_allowed        not under a folder that models may be read from
├── UnknownModel                 404 model_not_found
├── NotFound                     404 not_found
├── MethodNotAllowed             405 method_not_allowed
├── Conflict                     409 conflict
│   └── NoCapacity               409 insufficient_capacity   fits on no device; says by how many MiB
├── PayloadTooLarge              413 payload_too_large
├── TooManyRequests              429 rate_limit_exceeded     a queue is full; Retry-After says when
├── LaunchCancelled              499 launch_cancelled
├── EngineFailed                 500 engine_error            the engine raised while it served
│   ├── EndpointFailed           502 endpoint_failed         the server behind an engine is away, or broke off
│   │   └── EndpointTimeout      504 endpoint_timeout        it says nothing for too long
│   ├── LoadFailed               500 load_failed             the engine could not load; carries the reason and its log
│   ├── EnvironmentFailed        500 environment_failed      its Python environment could not be built; says why
│   └── DownloadFailed           502 download_failed         its weights could not be had; says why, and what to do
├── StoreFailed                  500 store_failed            what was asked for cannot be read or written durably
├── ReplicaLost                  502 replica_lost            the process died while it answered
└── NotReady                     503 not_ready               still loading, or nothing serves it now; Retry-After
└── SupervisorAway           503 supervisor_unreachable  models keep serving, managing them has to wait
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec


class XinferError(Exception):
    """Base of all. ``message`` is written for the person who reads it: what is wrong, and what to do.

    ``details`` says the same to a program: plain JSON values, empty for most errors.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.details = dict(details or {})

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword arguments do not survive Exception's own pickling, and errors cross actor pools.
        return (_rebuild, (type(self), self.message, self.param, self.retry_after, self.details))

    def body(self) -> dict[str, Any]:
        """The OpenAI error object: ``{"error": {"message", "type", "param", "code"}}``, and "details" if there are."""
        error: dict[str, Any] = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error | ({"details": self.details} if self.details else {})}

    def encode(self) -> bytes:
        """``body()`` as JSON bytes."""
        return msgspec.json.encode(self.body())

    def headers(self) -> Mapping[str, str]:
        """Response headers that belong to this error (Retry-After, in seconds)."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


def _rebuild(
    cls: type[XinferError], message: str, param: str | None, retry_after: int | None, details: dict[str, Any]
) -> XinferError:
    return cls(message, param=param, retry_after=retry_after, details=details)


class InvalidRequest(XinferError):
    """The request is wrong in itself; ``param`` names the field."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class UnsupportedParameter(InvalidRequest):
    """A parameter that the engine of this model cannot honour. Nothing is silently ignored."""

    code = "unsupported_parameter"


class ContextOverflow(InvalidRequest):
    """Prompt (and asked completion) exceed the model's context; the message has both numbers, in tokens."""

    code = "context_length_exceeded"


class InvalidSliceRequest(InvalidRequest):
    """A request for a device slice that cannot be meant, whatever devices there are; ``param`` names the field."""

    status = 422
    code = "invalid_slice_request"


class Unauthorized(XinferError):
    """No key, or a wrong one."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class PathNotAllowed(XinferError):
    """A path outside of the folders that models may be read from; does not say whether there is anything."""

    status = 403
    type = "permission_error"
    code = "path_not_allowed"


class NotFound(XinferError):
    """A resource other than a model that does not exist."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class UnknownModel(NotFound):
    """No such model is deployed, or not for this caller; lists nothing."""

    code = "model_not_found"


class MethodNotAllowed(XinferError):
    """The path exists, but not for this HTTP method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class Conflict(XinferError):
    """The state does not allow it: for instance a model_uid that is already in use."""

    status = 409
    type = "conflict_error"
    code = "conflict"


class NoCapacity(Conflict):
    """No device has room; the message says by how many MiB each falls short."""

    code = "insufficient_capacity"


class PayloadTooLarge(XinferError):
    """The body is over the limit; the message has both numbers, in bytes."""

    status = 413
    type = "invalid_request_error"
    code = "payload_too_large"


class UnsupportedEncoding(XinferError):
    """The body is compressed."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_content_encoding"


class TooManyRequests(XinferError):
    """A bounded queue is full."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class LaunchCancelled(XinferError):
    """Somebody cancelled or terminated the launch that the caller waits for."""

    status = 499
    code = "launch_cancelled"


class EngineFailed(XinferError):
    """The engine raised while it served a request."""

    code = "engine_error"


class LoadFailed(EngineFailed):
    """The engine could not load the model; the message ends with the last lines of its log."""

    code = "load_failed"


class EndpointFailed(EngineFailed):
    """The server that an engine passes requests to cannot be reached, refuses us, or broke off its answer."""

    status = 502
    code = "endpoint_failed"


class EndpointTimeout(EndpointFailed):
    """It accepts no connection, or says nothing while it answers, for too long."""

    status = 504
    code = "endpoint_timeout"


class EnvironmentFailed(EngineFailed):
    """The Python environment of an engine could not be built or does not work; nothing half-built is used."""

    code = "environment_failed"


class DownloadFailed(EngineFailed):
    """The weights of a model could not be downloaded; what was stays, and the next attempt goes on from there."""

    status = 502
    code = "download_failed"


class StoreFailed(XinferError):
    """The database of the supervisor cannot be read or written; nothing was changed."""

    code = "store_failed"


class ReplicaLost(XinferError):
    """The replica's process died, or its connection broke, while it answered."""

    status = 502
    code = "replica_lost"


class NotReady(XinferError):
    """The model is known but nothing serves it yet, or right now."""

    status = 503
    code = "not_ready"


class SupervisorAway(NotReady):
    """The supervisor does not answer. Running models keep serving; managing them has to wait."""

    code = "supervisor_unreachable"


def load_error(reason: str, refused: str) -> XinferError:
    """The error of a launch that failed.

    Args:
        reason: what its engine said.
        refused: the parameter of the launch that is wrong; empty: something else is.
    """
    return InvalidRequest(reason, param=refused) if refused else LoadFailed(reason)


def describe(error: BaseException) -> str:
    """One line for an error, with the type's name where the message alone would say little."""
    if isinstance(error, XinferError):
        return error.message  # str() of one that crossed actor pools names the pool first
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
