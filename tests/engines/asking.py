"""An engine in this very process: loaded, asked through its contract, closed. For the tests of several engines."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from xinfer.devices import Grant, Lease
from xinfer.engines.base import JSON_HEAD, SSE_HEAD, Call, Frame
from xinfer.ops import Op
from xinfer.spec import ModelSpec

GRANT = Grant(lease=Lease(replica_id="r", generation=1, slices=()))
"""Nothing is limited."""


def with_engine(
    make: Callable[[], Any],
    spec: ModelSpec,
    use: Callable[[Any], Awaitable[Any]],
    grant: Grant = GRANT,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Load a model, use it, close it; what ``use`` returned."""

    async def main() -> Any:
        engine = make()
        await engine.load(spec, dict(options or {}), grant, lambda _stage, _fraction: None)
        try:
            return await use(engine)
        finally:
            await engine.close()

    return asyncio.run(main())


async def frames(engine: Any, op: Op, **fields: Any) -> list[Frame]:
    """Everything that an engine yields for a request."""
    body = json.dumps({"model": "m", **fields}).encode()
    return [frame async for frame in engine.serve(Call("id", op, body, "m"))]


async def complete(engine: Any, prompt: Any, **fields: Any) -> dict[str, Any]:
    """A greedy completion, unless the fields say otherwise; a stream is put together."""
    asked = {"temperature": 0, "max_tokens": 12, "ignore_eos": True, **fields}
    head, *rest = await frames(engine, Op.COMPLETION, prompt=prompt, **asked)
    if not asked.get("stream"):
        assert head == JSON_HEAD
        answer: dict[str, Any] = json.loads(rest[0])
        return answer
    assert head == SSE_HEAD
    parts = [part for chunk in _chunks(rest) for part in chunk["choices"]]
    return {"choices": [{"text": "".join(part["text"] for part in parts), "finish_reason": parts[-1]["finish_reason"]}]}


async def chat(engine: Any, **fields: Any) -> dict[str, Any]:
    """A greedy answer: its message, why it ended and its usage; a stream is put together."""
    if fields.get("stream"):
        fields = {"stream_options": {"include_usage": True}, **fields}
    head, *rest = await frames(engine, Op.CHAT, temperature=0, **fields)
    if not fields.get("stream"):
        answer = json.loads(rest[0])
        choice = answer["choices"][0]
        return {**choice["message"], "finish_reason": choice["finish_reason"], "usage": answer["usage"]}
    assert head == SSE_HEAD
    chunks = _chunks(rest)
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_calls": []}
    message["usage"] = chunks.pop()["usage"]
    for chunk in chunks:
        part = chunk["choices"][0]
        message["content"] += part["delta"].get("content", "")
        message["reasoning_content"] += part["delta"].get("reasoning_content", "")
        for call in part["delta"].get("tool_calls", ()):
            if "id" in call:
                message["tool_calls"].append({"function": {"name": call["function"]["name"], "arguments": ""}})
            message["tool_calls"][call["index"]]["function"]["arguments"] += call["function"]["arguments"]
        message["finish_reason"] = part["finish_reason"]
    return message


def text_of(answer: dict[str, Any], choice: int = 0) -> str:
    """The text of a completion."""
    text: str = answer["choices"][choice]["text"]
    return text


def _chunks(rest: list[Any]) -> list[dict[str, Any]]:
    """The events of a stream, which ends as streams do."""
    lines = b"".join(rest).decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
