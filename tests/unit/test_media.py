"""The images of requests: how messages refer to them, where they are fetched from, and within which limits."""

import asyncio
import base64
import ipaddress
import json
import struct
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from xinfer.engines.fetching import Fetcher, is_public
from xinfer.engines.image_header import read_header
from xinfer.engines.media import ImageLoader, MediaLimits
from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.protocols.chat import parse_chat
from xinfer.protocols.content import ImagePart
from xinfer.settings import Settings

WHERE = "messages[0].content[1].image_url"


def png(width: int = 4, height: int = 2) -> bytes:
    """A black image."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(3 * width)) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


# --- what messages say ---


def read(*parts: object, role: str = "user", images: bool = True):
    message = {"role": role, "content": [{"type": "text", "text": "see"}, *parts]}
    if role == "tool":
        message["tool_call_id"] = "c1"
    return parse_chat(json.dumps({"model": "m", "messages": [message]}).encode(), images=images)


def image(url: object, **more: object) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url, **more} if more or not isinstance(url, dict) else url}


@pytest.mark.parametrize("role", ["user", "tool"])
def test_images_are_found_in_their_order(role):
    request = read(
        image("https://one/a.png"),
        {"type": "image_url", "image_url": data_url(b"x")},
        image("http://b", detail="low"),
        role=role,
    )
    assert request.images == [
        ImagePart(WHERE, "https://one/a.png"),
        ImagePart("messages[0].content[2].image_url", data_url(b"x")),
        ImagePart("messages[0].content[3].image_url", "http://b", "low"),
    ]


@pytest.mark.parametrize(
    ("part", "param", "says"),
    [
        (image("ftp://a"), WHERE, "must have a URL that starts with data:, http:// or https://"),
        (image(""), WHERE, "must have a URL"),
        (image(5), WHERE, "must have a URL"),
        (image({}), WHERE, "must have a URL"),
        ({"type": "image_url"}, WHERE, "must have a URL"),
        ({"type": "image_url", "image_url": [1]}, WHERE, "must have a URL"),
        (image("https://a", detail="fine"), f"{WHERE}.detail", "one of: auto, low, high"),
        ({"type": "video_url", "video_url": {"url": "x"}}, "messages[0].content[1].type", "reads text and images"),
        ({"type": "input_audio", "input_audio": {}}, "messages[0].content[1].type", "no sound here"),
        ({"type": "file"}, "messages[0].content[1].type", "no files here"),
        ({"type": "smell"}, "messages[0].content[1].type", "no such parts"),
    ],
)
def test_a_wrong_part_is_refused_at_its_place(part, param, says):
    with pytest.raises(InvalidRequest, match=says) as caught:
        read(part)
    assert caught.value.param == param


def test_models_that_do_not_see_refuse_images():
    with pytest.raises(UnsupportedParameter, match="this model reads text only") as caught:
        read(image("https://a"), images=False)
    assert caught.value.param == WHERE


def test_images_are_for_users_and_tools():
    with pytest.raises(UnsupportedParameter, match="this one is of system"):
        read(image("https://a"), role="system")


# --- headers ---

JPEG = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xff\xdb\x00\x03a\xff\xc2\x00\x0b\x08\x00\x1e\x00\x28\x03abc"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (png(40, 30), ("PNG", 40, 30)),
        (JPEG, ("JPEG", 40, 30)),
        (b"GIF89a" + struct.pack("<HH", 40, 30), ("GIF", 40, 30)),
        (b"BM" + bytes(12) + struct.pack("<Iii", 40, 40, -30), ("BMP", 40, 30)),
        (b"BM" + bytes(12) + struct.pack("<IHH", 12, 40, 30), ("BMP", 40, 30)),
        (b"RIFF....WEBPVP8 " + bytes(10) + struct.pack("<HH", 40 | 0x4000, 30), ("WebP", 40, 30)),
        (b"RIFF....WEBPVP8L" + bytes(4) + b"\x2f" + struct.pack("<I", 39 | 29 << 14), ("WebP", 40, 30)),
        (b"RIFF....WEBPVP8X" + bytes(8) + (39).to_bytes(3, "little") + (29).to_bytes(3, "little"), ("WebP", 40, 30)),
    ],
)
def test_headers_say_format_and_size_or_end_too_early(data, found):
    header = read_header(data)
    assert header is not None
    assert (header.format, header.width, header.height) == found
    assert all(read_header(data[:size]) is None for size in range(min(len(data), 16)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg/>",
        b"%PDF-1.7",
        png(0, 5),
        b"RIFF....WAVEfmt ",
        b"\x89PNG\r\n\x1a\n" + bytes(20),
        b"\xff\xd8\xff\xd9aa",
    ],
)
def test_what_is_no_image_is_told(data):
    assert read_header(data) is None


# --- addresses ---


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:4700::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fd00::1", False),
        ("fe80::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.215.14", True),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_addresses_that_are_not_on_the_internet(address, public):
    assert is_public(ipaddress.ip_address(address)) is public


# --- fetching ---


class Pages(BaseHTTPRequestHandler):
    """``/size/N``: so many bytes; ``/to/URL``: a redirect; ``/STATUS``; ``/slow``: begins, and goes on when told."""

    answered: list[str]
    go_on: threading.Event

    def do_GET(self) -> None:
        self.answered.append(f"{self.headers['Host']}{self.path}")
        kind, _, rest = self.path[1:].partition("/")
        if kind == "to":
            self._answer(302, b"", location=rest)
        elif kind == "size":
            self._answer(200, png() + bytes(int(rest)))
        elif kind == "slow":
            self.send_response(200)
            self.end_headers()
            self.go_on.wait()
        else:
            self._answer(int(kind), b"nothing")

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Nothing to say."""


class Site:
    """A server with ``Pages`` on a free port."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.answered: list[str] = []
        handler = type("Handler", (Pages,), {"answered": self.answered, "go_on": self.go_on})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    opened = Site()
    yield opened
    opened.close()


def fetched(url: str, *hosts: str, max_bytes: int = 10_000, timeout_s: float = 30) -> bytes:
    async def main() -> bytes:
        fetcher = Fetcher(hosts, timeout_s, max_bytes)
        try:
            return await fetcher.fetch(url, WHERE)
        finally:
            await fetcher.close()

    return asyncio.run(main())


@pytest.mark.parametrize("hosts", [("localhost",), ("public", "LocalHost"), ("*",), ("localhost:{port}",)])
def test_listed_hosts_are_asked_by_their_name(site, hosts):
    url = f"http://localhost:{site.port}/size/5"
    assert fetched(url, *(host.format(port=site.port) for host in hosts)) == png() + bytes(5)
    assert site.answered == [f"localhost:{site.port}/size/5"]


@pytest.mark.parametrize("hosts", [("public",), ("none",), (), ("elsewhere",), ("localhost:1",)])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "0.0.0.0", "2130706433", "[::ffff:127.0.0.1]"])
def test_nothing_around_us_is_asked(site, hosts, host):
    with pytest.raises(InvalidRequest, match=r"does not fetch from|cannot be fetched") as caught:
        fetched(f"http://{host}:{site.port}/size/5", *hosts)
    assert caught.value.param == WHERE
    assert site.answered == []


def test_redirects_are_followed_and_looked_at_again(site):
    here = f"http://127.0.0.1:{site.port}"
    assert fetched(f"{here}/to//size/3", "127.0.0.1") == png() + bytes(3)
    with pytest.raises(InvalidRequest, match="on localhost, which this server does not fetch from"):
        fetched(f"{here}/to/http://localhost:{site.port}/size/3", "127.0.0.1")
    with pytest.raises(InvalidRequest, match="no http or https URL"):
        fetched(f"{here}/to/file:///etc/passwd", "127.0.0.1")
    before = len(site.answered)
    with pytest.raises(InvalidRequest, match="more than 5 redirects"):
        fetched(f"{here}/to/" * 9, "127.0.0.1")
    assert len(site.answered) == before + 6


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("404", "answers 404"),
        ("size/20000", r"is larger than .* MiB, which is the limit"),
    ],
)
def test_what_cannot_be_had_is_said(site, path, says):
    with pytest.raises(InvalidRequest, match=says):
        fetched(f"http://127.0.0.1:{site.port}/{path}", "*")


def test_nobody_waits_for_ever(site):
    with pytest.raises(InvalidRequest, match=r"it took more than 0\.1 seconds"):
        fetched(f"http://127.0.0.1:{site.port}/slow", "*", timeout_s=0.1)


@pytest.mark.parametrize(
    "url", ["http://localhost:1/", "http://no-such-host.invalid/", "http://", "http://[::1", "http://a:b"]
)
def test_what_cannot_be_reached_is_said(url):
    with pytest.raises(InvalidRequest, match=WHERE.replace("[", r"\[")) as caught:
        fetched(url, "*")
    assert caught.value.param == WHERE


# --- within limits ---

LIMITS = MediaLimits(images=3, mib=1, pixels=1000)


def loaded(*urls: str, hosts: tuple[str, ...] = ("*",)) -> list:
    parts = [ImagePart(f"messages[0].content[{index}].image_url", url) for index, url in enumerate(urls)]

    async def main() -> list:
        loader = ImageLoader(LIMITS, Fetcher(hosts, 30, 2 * 1024 * 1024))
        try:
            return await loader.load(parts)
        finally:
            await loader.close()

    return asyncio.run(main())


def test_images_are_loaded_in_order_and_each_url_once(site):
    here = f"http://127.0.0.1:{site.port}/size"
    images = loaded(f"{here}/1", data_url(png(8, 8)), f"{here}/1")
    assert [image.header.width for image in images] == [4, 8, 4]
    assert images[0].digest == images[2].digest != images[1].digest
    assert len(site.answered) == 1


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (data_url(b"text"), "is not an image that is read here"),
        (data_url(png(40, 40)), r"has 40 x 40 pixels, 1600 together; 1000 are allowed \(XINFER_MEDIA_MAX_PIXELS\)"),
        (data_url(png() + bytes(2**20)), r"has 1\.0 MiB; 1 are allowed \(XINFER_MEDIA_MAX_MIB\)"),
        ("data:image/png;base64,%%%", "is not valid base64"),
        ("data:image/png;base64,AAA", "is not valid base64"),
        ("data:image/png,AAAA", "must start like 'data:image/png;base64,'"),
        ("data:text/html;base64,AAAA", "must start like"),
        ("data:", "must start like"),
    ],
)
def test_what_is_beyond_the_limits_is_refused(url, says):
    with pytest.raises(InvalidRequest, match=says) as caught:
        loaded(data_url(png()), url)
    assert caught.value.param == WHERE


def test_too_many_images_are_refused_before_any_is_fetched(site):
    here = f"http://127.0.0.1:{site.port}/size"
    with pytest.raises(InvalidRequest, match="have 4 images; 3 are allowed") as caught:
        loaded(*[f"{here}/{index}" for index in range(4)])
    assert caught.value.param == "messages[0].content[3].image_url"
    assert site.answered == []


def test_one_that_cannot_be_fetched_is_named(site):
    here = f"http://127.0.0.1:{site.port}"
    with pytest.raises(InvalidRequest, match="answers 500") as caught:
        loaded(f"{here}/size/1", f"{here}/500")
    assert caught.value.param == WHERE


def test_the_limits_are_settings(tmp_path):
    home = {"XINFER_HOME": str(tmp_path), "XINFER_TOKEN_FILE": str(tmp_path / "token")}
    chosen = {"XINFER_MEDIA_MAX_IMAGES": "2", "XINFER_MEDIA_MAX_MIB": "3", "XINFER_MEDIA_MAX_PIXELS": "4"}
    assert MediaLimits.of(Settings.from_env({**home, **chosen})) == MediaLimits(images=2, mib=3, pixels=4)


def test_requests_with_images_take_turns():
    async def main() -> list[int]:
        loader = ImageLoader(MediaLimits(images=1, mib=1, pixels=1, requests=2), Fetcher((), 1, 1))
        done = asyncio.Event()
        inside = []

        async def work(number: int) -> None:
            async with loader.turn():
                inside.append(number)
                await done.wait()

        tasks = [asyncio.create_task(work(number)) for number in range(5)]
        while len(inside) < 2 or loader.waiting < 3:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0)
        tasks[2].cancel()  # somebody who leaves while it waits
        await asyncio.wait([tasks[2]])
        assert loader.waiting == 2
        done.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert loader.waiting == 0
        return inside

    assert sorted(asyncio.run(main())) == [0, 1, 3, 4]
