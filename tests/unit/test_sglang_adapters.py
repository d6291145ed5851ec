"""LoRA adapters on SGLang: its arguments, what it takes, and what its server is told, by one that stands in for it."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from xinfer.engines.base import Call, TakesAdapters
from xinfer.engines.passthrough import HttpCaller, HttpClient, Origin
from xinfer.engines.sglang import ENGINE
from xinfer.engines.sglang.adapters import accepts_adapter, asking_for, options_with_adapters, require_cards
from xinfer.engines.sglang.arguments import SERVER, suggestions
from xinfer.engines.sglang.server import SGLANG_PATHS
from xinfer.errors import InvalidRequest, LoadFailed, UnsupportedParameter
from xinfer.ops import Kind, Op
from xinfer.spec import Adapter, Format, ModelSpec

ODD = Adapter(name="odd", path="/loras/odd", rank=8)
WIDE = Adapter(name="wide", path="/loras/wide", rank=48)
CHAT = ModelSpec(name="m", kind=Kind.LLM, source="/models/m", format=Format.SAFETENSORS)
FULL = {"success": False, "error_message": "there is no room"}


def test_it_takes_adapters():
    assert issubclass(ENGINE, TakesAdapters)


@pytest.mark.parametrize(
    ("options", "adapters", "found"),
    [
        ({"dtype": "half"}, (), {"dtype": "half"}),
        ({}, (ODD,), {"enable_lora": True, "max_lora_rank": 16, "lora_target_modules": ["all"]}),
        ({}, (ODD, WIDE), {"enable_lora": True, "max_lora_rank": 48, "lora_target_modules": ["all"]}),
        (
            {"enable_lora": True, "lora_target_modules": ["q_proj"]},
            (),
            {"enable_lora": True, "max_lora_rank": 16, "lora_target_modules": ["q_proj"]},
        ),
        ({"max_lora_rank": 4}, (ODD,), {"enable_lora": True, "max_lora_rank": 4, "lora_target_modules": ["all"]}),
    ],
)
def test_room_for_adapters_is_asked_for_where_there_are_some(options, adapters, found):
    assert options_with_adapters(options, adapters) == found


@pytest.mark.parametrize(
    ("options", "adapter", "reason"),
    [
        ({"enable_lora": True}, ODD, ""),
        ({}, ODD, "launch it again with --enable-lora"),
        ({"enable_lora": True, "max_lora_rank": 16}, WIDE, "rank is 48.*at most 16.*--max-lora-rank 48"),
        ({"enable_lora": True, "max_lora_rank": "high"}, ODD, "must be a number"),
        ({"enable_lora": True}, Adapter(name="a:b", path="/x"), "no adapter whose name has a ':'"),
    ],
)
def test_what_it_takes(options, adapter, reason):
    match = accepts_adapter(options, adapter)
    assert match.ok is not bool(reason)
    assert re.search(reason, match.reason)


def test_its_command_line():
    options = options_with_adapters({}, (ODD,))
    words = SERVER.command_line(suggestions(CHAT, "", options, 1), options, {}, {})
    assert {"--enable-lora", "--max-lora-rank=16"} <= set(words)
    assert words[words.index("--lora-target-modules") + 1] == "all"


def test_a_cpu_has_no_memory_for_them():
    require_cards({}, 0)
    require_cards({"enable_lora": True}, 1)
    with pytest.raises(InvalidRequest, match="on accelerators only; transformers and vLLM"):
        require_cards({"enable_lora": True}, 0)


def test_a_body_that_is_none_is_left_to_sglang():
    assert json.loads(asking_for("odd", b'{"model": "odd", "n": 1}')) == {"model": "odd", "n": 1, "lora_path": "odd"}
    assert asking_for("odd", b"[1]") == b"[1]"


class Server:
    """What the engine has of SGLang's server, behind which is one of ours."""

    def __init__(self, client: HttpClient) -> None:
        self.caller = HttpCaller(client, SGLANG_PATHS)
        self.post = client.post


def with_engine(answers: dict[str, Any], use: Callable[[Any], Awaitable[None]]) -> list[tuple[str, Any]]:
    """What a server hears that answers by the path, 200 to everything that is not there."""
    heard: list[tuple[str, Any]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            path, length = head.split(b" ")[1].decode(), int(head.lower().split(b"content-length: ")[1].split()[0])
            heard.append((path, json.loads(await reader.readexactly(length))))
            content = json.dumps(answers.get(path, {"success": True})).encode()
            status = 400 if path in answers else 200
            writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content)

    async def main() -> None:
        connected = []

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connected.append((asyncio.ensure_future(serve(reader, writer)), writer))

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        client = HttpClient(Origin(host="127.0.0.1", port=server.sockets[0].getsockname()[1]), "SGLang's server")
        engine = ENGINE()
        engine._server = Server(client)
        try:
            await use(engine)
        finally:
            client.close()
            server.close()
            await asyncio.gather(*(task for task, _ in connected), return_exceptions=True)
            for _, writer in connected:
                writer.close()
                await writer.wait_closed()

    asyncio.run(main())
    return heard


async def ask(engine: Any, op: Op, model: str) -> None:
    async for _ in engine.serve(Call("id", op, json.dumps({"model": model, "n": 1}).encode(), model)):
        pass


def test_an_adapter_comes_is_asked_for_and_goes():
    async def use(engine: Any) -> None:
        await ask(engine, Op.CHAT, "odd")
        await engine.load_adapter(ODD)
        await ask(engine, Op.CHAT, "odd")
        await ask(engine, Op.EMBEDDING, "m")
        await ask(engine, Op.TOKENIZE, "odd")
        with pytest.raises(UnsupportedParameter, match="adapters for chat, completions and embeddings only"):
            await ask(engine, Op.RESPONSES, "odd")
        await engine.unload_adapter(ODD)
        await ask(engine, Op.COMPLETION, "odd")

    odd = {"model": "odd", "n": 1}
    assert with_engine({}, use) == [
        ("/v1/chat/completions", odd),
        ("/load_lora_adapter", {"lora_name": "odd", "lora_path": "/loras/odd"}),
        ("/v1/chat/completions", odd | {"lora_path": "odd"}),
        ("/v1/embeddings", {"model": "m", "n": 1}),
        (SGLANG_PATHS[Op.TOKENIZE], odd),
        ("/unload_lora_adapter", {"lora_name": "odd"}),
        ("/v1/completions", odd),
    ]


def test_what_sglang_says_against_it_is_passed_on():
    async def use(engine: Any) -> None:
        with pytest.raises(LoadFailed, match="SGLang: there is no room"):
            await engine.load_adapter(ODD)
        await ask(engine, Op.CHAT, "odd")

    heard = with_engine({"/load_lora_adapter": FULL}, use)
    assert "lora_path" not in heard[-1][1]
