"""Reference 1: a bare raw-ASGI app that streams the same bytes at the same beat as the echo engine, with no model.

python app.py (--uds PATH | --port N) --rate BEATS_PER_SECOND
"""

import argparse
import asyncio
import json
import time

import uvicorn
import uvloop

CHUNK = (
    b'data: {"id":"chatcmpl-%s","object":"chat.completion.chunk","created":%d,"model":"echo","choices":[{"index":0,'
    b'"delta":%s,"logprobs":null,"finish_reason":null}]}\n\n'
)


class App:
    """Answers every POST with as many chunks as its message has words."""

    def __init__(self, rate: float) -> None:
        self._interval = 1 / rate if rate else 0.0
        self._waiting: list[asyncio.Future[None]] = []
        self._beating = False
        self._next = 0.0

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        request = json.loads(body)
        words = request["messages"][-1]["content"].split(" ")
        if not request.get("stream"):
            answer = json.dumps({"choices": [{"message": {"role": "assistant", "content": " ".join(words)}}]}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": answer})
            return
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        created = int(time.time())
        await self._event(send, created, b'{"role":"assistant","content":""}')
        for word in words:
            await self._beat()
            await self._event(send, created, b'{"content":%s}' % json.dumps(" " + word).encode())
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def _event(self, send, created: int, delta: bytes) -> None:
        data = CHUNK % (b"0123456789abcdef01234567", created, delta)
        await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append(future)
        if not self._beating:
            self._beating = True
            now = loop.time()
            self._next = max(self._next + self._interval, now)
            loop.call_later(self._next - now, self._strike) if self._interval else loop.call_soon(self._strike)
        await future

    def _strike(self) -> None:
        waiting, self._waiting, self._beating = self._waiting, [], False
        for future in waiting:
            if not future.done():
                future.set_result(None)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--uds")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--rate", type=float, required=True)
    options = parser.parse_args()
    place = {"uds": options.uds} if options.uds else {"port": options.port}
    config = uvicorn.Config(
        App(options.rate), http="httptools", loop="none", access_log=False, log_level="error", **place
    )
    uvloop.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main()
