"""Reference 2: the plainest byte proxy in Python, raw ASGI in front of aiohttp over a unix socket.

python proxy.py --port N --upstream UNIX_SOCKET
"""

import argparse

import aiohttp
import uvicorn
import uvloop


class Proxy:
    """Copies the request and every chunk of the answer."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return
        if self._session is None:
            connector = aiohttp.UnixConnector(self._upstream, limit=0)
            self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        url = "http://app" + scope["path"]
        async with self._session.post(url, data=body, headers={"content-type": "application/json"}) as answer:
            keep = (b"content-type", b"content-length")
            headers = [(k.lower(), v) for k, v in answer.raw_headers if k.lower() in keep]
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            async for chunk in answer.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    options = parser.parse_args()
    config = uvicorn.Config(
        Proxy(options.upstream), port=options.port, http="httptools", loop="none", access_log=False, log_level="error"
    )
    uvloop.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main()
