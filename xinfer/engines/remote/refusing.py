"""What an endpoint's errors mean to our clients: they chose neither its address nor its key. Pure."""

from collections.abc import Mapping

from xinfer.engines.passthrough import refusal
from xinfer.errors import EndpointFailed, EndpointTimeout, NotFound, PayloadTooLarge, TooManyRequests, XinferError

DEFAULT_RETRY_S = 1

_MEANT: dict[int, tuple[type[XinferError], str]] = {
    402: (EndpointFailed, "wants to be paid (status 402)"),
    404: (NotFound, "does not have the model or this operation"),
    408: (EndpointTimeout, "gave up (status 408)"),
    413: (PayloadTooLarge, "takes no request as large"),
    429: (TooManyRequests, "is full"),
    504: (EndpointTimeout, "gave up (status 504)"),
}
"""What a status is, and what is said before the endpoint's own words."""


def refused(name: str, status: int, body: bytes, headers: Mapping[bytes, bytes]) -> XinferError:
    """What is no answer, as one of our errors. A 4xx about the request stays one, the rest is its failure."""
    if status < 400:
        return EndpointFailed(f"{name} {_no_answer(status, body, headers)}")
    if status in {401, 403}:
        # Without what it says: some repeat the key.
        return EndpointFailed(f"{name} refuses the key that the model was launched with (status {status})")
    found = refusal(status, body)
    if status in _MEANT:
        kind, words = _MEANT[status]
        return kind(f"{name} {words}: {found.message}", retry_after=_retry_after(headers) if status == 429 else None)
    return EndpointFailed(f"{name} failed (status {status}): {found.message}") if status >= 500 else found


def _no_answer(status: int, body: bytes, headers: Mapping[bytes, bytes]) -> str:
    """What it did instead of refusing."""
    if status >= 300:
        target = headers.get(b"location", b"").decode("latin-1")
        return f"redirects to {target or 'nowhere'}; launch the model with that address as base_url"
    what = f"a page of the type {headers.get(b'content-type', b'').decode('latin-1')}" if body else "nothing"
    return f"answers with {what} (status {status}), which is no answer of OpenAI's API; check base_url"


def _retry_after(headers: Mapping[bytes, bytes]) -> int:
    """Seconds; the form with a date is as good as none."""
    value = headers.get(b"retry-after", b"")
    return min(3600, max(1, int(value))) if value.isdigit() and len(value) < 10 else DEFAULT_RETRY_S
