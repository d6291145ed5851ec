"""Another model in place of one that cannot answer now. Decided before the client has seen a byte; pure."""

from collections.abc import Collection, Mapping

import msgspec

from xinfer.engines.base import Call
from xinfer.errors import EndpointFailed, EndpointTimeout, NotReady, TooManyRequests, XinferError
from xinfer.protocols.naming import renamed_request
from xinfer.routes import ModelRoute

STANDS_IN_FOR = frozenset(error.code for error in (NotReady, TooManyRequests, EndpointFailed, EndpointTimeout))
"""Nothing serves the model now, its queues are full, or the server behind it is away. Whatever else is wrong may be
wrong with the request."""
HEADER = b"x-xinfer-model"
"""Says which model answered, where that is not the one that was asked."""


def fallback_of(call: Call, models: Mapping[str, ModelRoute], tried: Collection[str]) -> str:
    """The model that stands in for the one that is asked: it is deployed, can do the same and was not tried yet."""
    route = models.get(call.model)
    other = models.get(route.fallback) if route is not None else None
    return other.model_uid if other is not None and call.op in other.ops and other.model_uid not in tried else ""


def stand_in(error: XinferError, call: Call, models: Mapping[str, ModelRoute], tried: Collection[str]) -> Call | None:
    """The same request to the model that stands in; None: there is none for such an error."""
    if error.code not in STANDS_IN_FOR or not (other := fallback_of(call, models, tried)):
        return None
    return msgspec.structs.replace(call, model=other, body=renamed_request(call.headers, call.body, other))
