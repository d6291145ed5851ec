"""The demo model's questions, and what the chunks of an answer add up to."""

import json
from pathlib import Path
from typing import Any

import xinfer.catalog

DEMO = Path(xinfer.catalog.__file__).parent / "demo"
CONTEXT = 2048
"""Tokens, of the demo model."""
UID = "demo"
"""What it is launched as."""

Entry = dict[str, Any]
"""A golden conversation: what is asked, and what the model answers to it, greedily."""


def known() -> dict[str, Any]:
    """What each demo model is known to answer."""
    found: dict[str, Any] = json.loads((DEMO / "golden.json").read_text(encoding="utf-8"))
    return found


def golden() -> list[Entry]:
    """Every conversation whose answer is known."""
    return list(known()["demo-chat"])


def golden_texts() -> list[Entry]:
    """Plain texts, and how they go on."""
    return list(known()["demo-chat-completions"])


def longest() -> Entry:
    """The conversation with the longest answer."""
    return max(golden(), key=lambda entry: entry["answer_tokens"])


def ask(text: str, **more: Any) -> dict[str, Any]:
    """The fields of a greedy question."""
    return {"model": UID, "messages": [{"role": "user", "content": text}], "temperature": 0, **more}


def story(tokens: int, **more: Any) -> dict[str, Any]:
    """The fields of a question whose answer does not end before so many tokens."""
    return ask("Tell me a short story.", max_tokens=tokens, extra_body={"min_tokens": tokens}, **more)


def fields_of(entry: Entry, **more: Any) -> dict[str, Any]:
    """The fields that ask a golden conversation."""
    fields = {"model": UID, "messages": entry["messages"], "temperature": 0, **more}
    if "tools" in entry:
        fields["tools"] = entry["tools"]
    if "enable_thinking" in entry:
        fields["extra_body"] = {"chat_template_kwargs": {"enable_thinking": entry["enable_thinking"]}}
    return fields


def json_form(schema: dict[str, Any]) -> dict[str, Any]:
    """A ``response_format`` that wants this schema."""
    return {"type": "json_schema", "json_schema": {"name": "wanted", "schema": schema, "strict": True}}


def calls_of(message: Any) -> list[dict[str, Any]]:
    """The tool calls of a message, as golden conversations have them."""
    return [
        {"name": call.function.name, "arguments": json.loads(call.function.arguments)}
        for call in message.tool_calls or ()
    ]


def is_golden(entry: Entry, message: Any) -> bool:
    """Whether a message says what the conversation is known for. Some engines keep the space before an answer."""
    content = (message.content or "").strip()
    return calls_of(message) == entry.get("tool_calls", []) and content == entry["answer"].strip()


class Streamed:
    """What the chunks of a stream add up to, of its first choice."""

    def __init__(self) -> None:
        self.content = ""
        self.reason = ""
        self.usage: Any = None
        self.usages = 0
        self.tokens: list[Any] = []
        """With their log probabilities, where those were asked for."""
        self._calls: dict[int, dict[str, str]] = {}

    def add(self, chunk: Any) -> None:
        """The next chunk, of a chat or of a completion."""
        self.usage = chunk.usage or self.usage
        self.usages += chunk.usage is not None
        for choice in chunk.choices:
            self.reason = choice.finish_reason or self.reason
            self.content += (choice.delta.content if hasattr(choice, "delta") else choice.text) or ""
            self.tokens += getattr(getattr(choice, "logprobs", None), "content", None) or ()
            for part in getattr(getattr(choice, "delta", None), "tool_calls", None) or ():
                call = self._calls.setdefault(part.index, {"name": "", "arguments": ""})
                call["name"] += (part.function and part.function.name) or ""
                call["arguments"] += (part.function and part.function.arguments) or ""

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The tool calls, as golden conversations have them."""
        return [{**call, "arguments": json.loads(call["arguments"])} for call in self._calls.values()]


def read(stream: Any) -> Streamed:
    """A stream, to its end."""
    streamed = Streamed()
    for chunk in stream:
        streamed.add(chunk)
    return streamed


async def read_async(stream: Any) -> Streamed:
    """Likewise, of the asynchronous client."""
    streamed = Streamed()
    async for chunk in stream:
        streamed.add(chunk)
    return streamed
