"""What an endpoint's errors mean to our clients: they chose neither its address nor its key. Pure."""

from collections.abc import Mapping

from xinfer.engines.passthrough import refusal
from xinfer.errors import EndpointFailed, EndpointTimeout, NotFound, TooManyRequests, XinferError

DEFAULT_RETRY_S = 1


def refused(name: str, status: int, body: bytes, headers: Mapping[bytes, bytes]) -> XinferError:
    """An error answer as one of our errors. A 4xx about the request stays one; the rest is the endpoint's failure."""
    found = refusal(status, body)
    match status:
        case 401 | 403:
            # Without what it says: some repeat the key.
            return EndpointFailed(f"{name} refuses the key that the model was launched with (status {status})")
        case 404:
            return NotFound(f"{name} does not have the model or this operation: {found.message}")
        case 408 | 504:
            return EndpointTimeout(f"{name} gave up (status {status}): {found.message}")
        case 429:
            return TooManyRequests(f"{name} is full: {found.message}", retry_after=_retry_after(headers))
    if status < 400:
        target = headers.get(b"location", b"").decode("latin-1")
        return EndpointFailed(f"{name} redirects to {target or 'nowhere'}; launch the model with that as base_url")
    return EndpointFailed(f"{name} failed (status {status}): {found.message}") if status >= 500 else found


def _retry_after(headers: Mapping[bytes, bytes]) -> int:
    """Seconds; the form with a date is as good as none."""
    value = headers.get(b"retry-after", b"")
    return min(3600, max(1, int(value))) if value.isdigit() and len(value) < 10 else DEFAULT_RETRY_S
