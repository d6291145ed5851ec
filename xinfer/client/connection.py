"""HTTP to one server: JSON in and out, and the server's errors as the exceptions of ``xinfer.errors``.

The code in an error body picks the class, so ``except UnknownModel`` works the same on both sides of the wire.
"""

import contextlib
import ipaddress
from collections.abc import Generator, Iterator, Mapping
from typing import Any, Self, TypeVar

import httpx
import msgspec

from xinfer import errors
from xinfer.errors import InvalidRequest, XinferError

T = TypeVar("T")

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0


class Unreachable(XinferError):
    """Nothing answers at the endpoint, or the connection broke."""

    status = 503
    code = "unreachable"


class UnknownAnswer(XinferError):
    """An answer that is not in the shape of this API: another kind of server, or another version."""

    status = 502
    code = "unknown_answer"


def server_url(text: str) -> str:
    """The URL of a server as people write it, without a slash at its end.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        url = httpx.URL(text.rstrip("/"))
    except httpx.InvalidURL as error:
        raise InvalidRequest(f"{text!r} is not a URL: {error}", param="endpoint") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidRequest(
            f"{text!r} is not the URL of a server; it should look like http://127.0.0.1:9997", param="endpoint"
        )
    return str(url)


class Connection:
    """Requests to one endpoint. Use it as a context manager, or call ``close``."""

    def __init__(self, base_url: str, api_key: str | None = None) -> None:
        self.base_url = server_url(base_url)
        self._http = httpx.Client(
            base_url=self.base_url,
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            # A proxy for the internet, set in the environment, must not swallow requests to this machine.
            trust_env=not _is_loopback(httpx.URL(self.base_url).host),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the sockets back."""
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        timeout_s: float | None = READ_TIMEOUT_S,
    ) -> Any:
        """One request; the answer's JSON. ``timeout_s`` bounds each wait for bytes, None waits as long as it takes.

        Raises:
            XinferError: what the server refused, in its own words.
            Unreachable: nothing answers.
        """
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        with self._transport_errors():
            response = self._http.request(method, path, params=params, json=body, timeout=timeout)
        if response.is_error:
            raise error_of(response)
        try:
            return msgspec.json.decode(response.content) if response.content else None
        except msgspec.DecodeError:
            raise UnknownAnswer(f"{response.url} does not answer with JSON: is it an xinfer server?") from None

    def events(self, path: str, body: Any, kind: type[T]) -> Generator[T, None, None]:
        """POST, and each server-sent event as a ``kind`` until ``[DONE]``. Closing the iterator cancels the request.

        Raises:
            XinferError: what the server refused, or an error event in the middle of the stream.
        """
        with self._transport_errors(), self._http.stream("POST", path, json=body, timeout=None) as response:
            if response.is_error:
                response.read()
                raise error_of(response)
            for line in response.iter_lines():
                data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
                if data == "[DONE]":
                    return
                if data:
                    yield _event(data, kind)

    @contextlib.contextmanager
    def _transport_errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise Unreachable(f"nothing answers at {self.base_url} ({error})") from None
        except httpx.TimeoutException:
            raise Unreachable(f"{self.base_url} did not answer in time") from None
        except httpx.TransportError as error:
            raise Unreachable(f"the connection to {self.base_url} broke ({error})") from None


def error_of(response: httpx.Response) -> XinferError:
    """The exception that an error answer stands for."""
    retry_after = response.headers.get("retry-after", "")
    with contextlib.suppress(msgspec.DecodeError):
        body = msgspec.json.decode(response.content)
        error = _rebuild(body, retry_after=int(retry_after) if retry_after.isdigit() else None)
        if error:
            return error
    request = response.request
    return UnknownAnswer(
        f"{request.method} {request.url} answers HTTP {response.status_code} without a reason: "
        "is it an xinfer server of this version?"
    )


def read(answer: Any, kind: type[T]) -> T:
    """Decoded JSON as a typed answer.

    Raises:
        UnknownAnswer: it has another shape.
    """
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise UnknownAnswer(f"the server's answer is not what this version knows: {error}") from None


def _event(data: str, kind: type[T]) -> T:
    try:
        event = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise UnknownAnswer(f"an event of the stream is not JSON: {error}") from None
    if isinstance(event, dict) and event.get("error"):
        raise _rebuild(event, retry_after=None) or UnknownAnswer(f"the stream broke off: {data}")
    return read(event, kind)


def _rebuild(body: Any, retry_after: int | None) -> XinferError | None:
    """The exception of an OpenAI error object; None if the body is none."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return None
    cls = _CLASS_OF_CODE.get(str(error.get("code")), XinferError)
    param = error.get("param")
    return cls(error["message"], param=param if isinstance(param, str) else None, retry_after=retry_after)


def _classes(base: type[XinferError]) -> Iterator[type[XinferError]]:
    yield base
    for cls in base.__subclasses__():
        yield from _classes(cls)


_CLASS_OF_CODE = {cls.code: cls for cls in _classes(XinferError) if cls.__module__ == errors.__name__}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
