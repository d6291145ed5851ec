"""A real HTTP server that plays the management API from a script, so that every answer can be arranged."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest


class Asked(NamedTuple):
    """A request as it arrived."""

    method: str
    path: str
    body: Any
    headers: dict[str, str]


class Answer(NamedTuple):
    """What to send back. Events make it a server-sent event stream."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = {}  # noqa: RUF012  never changed
    events: tuple[str, ...] = ()
    endless: bool = False
    """Repeat the last event until the client goes away."""


class ScriptedApi:
    """Answers by method and path; of several answers to one route each is given once and the last one for ever."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.client_gone = threading.Event()
        self._script: dict[tuple[str, str], list[Answer]] = {}
        self._arrived = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def on(self, method: str, path: str, *answers: Answer) -> None:
        self._script[method, path] = list(answers)

    def wait_for(self, method: str, path: str) -> Asked:
        """The first such request, also when it has yet to come."""

        def found() -> Asked | None:
            return next((asked for asked in self.asked if (asked.method, asked.path) == (method, path)), None)

        with self._arrived:
            assert self._arrived.wait_for(lambda: found() is not None, timeout=20), f"nobody asked {method} {path}"
        asked = found()
        assert asked
        return asked

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def take(self, asked: Asked) -> Answer:
        with self._arrived:
            self.asked.append(asked)
            self._arrived.notify_all()
            answers = self._script.get((asked.method, asked.path))
        if not answers:
            return Answer(404, {"detail": "Not Found"})
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def _handler(self) -> Callable[..., BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                raw = self.rfile.read(int(self.headers.get("content-length", 0)))
                path = self.path
                answer = api.take(Asked(self.command, path, json.loads(raw) if raw else None, dict(self.headers)))
                data = b"" if answer.body is None else json.dumps(answer.body).encode()
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if answer.events:
                    self.send_header("content-type", "text/event-stream")
                    self.end_headers()
                    self.stream(answer)
                    return
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def stream(self, answer: Answer) -> None:
                try:
                    for event in answer.events:
                        self.wfile.write(f"data: {event}\n\n".encode())
                    while answer.endless:
                        self.wfile.write(f"data: {answer.events[-1]}\n\n".encode())
                        api.client_gone.wait(0.002)
                except OSError:
                    api.client_gone.set()
                self.close_connection = True

            def log_message(self, *args: Any) -> None:
                pass

        for method in ("GET", "POST", "PUT", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.handle_any)
        return Handler


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    server = ScriptedApi()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XINFER_HOME", str(tmp_path))
    monkeypatch.setenv("XINFER_TOKEN_FILE", str(tmp_path / "token"))
    for name in ("XINFER_ENDPOINT", "XINFER_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def answer() -> type[Answer]:
    return Answer
