"""What one lesson of demo-chat is: a conversation and the answer to give."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from demo.chat_template import Message, Tool, render_prompt


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool, as the model writes it."""

    name: str
    arguments: Mapping[str, Any]

    def arguments_text(self) -> str:
        """Return the arguments as the OpenAI API carries them: JSON in a string."""
        return json.dumps(self.arguments, ensure_ascii=False)

    def text(self) -> str:
        """Return the call as Hermes-style tool parsers read it."""
        return f'<tool_call>\n{{"name": "{self.name}", "arguments": {self.arguments_text()}}}\n</tool_call>'


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation, and the text or the tool calls that answer it.

    `thought` is what the model writes in its thinking block before the answer, when `enable_thinking` asks for one.
    An example without messages has a `plain_text` instead, which the model carries on.
    """

    kind: str
    messages: tuple[Message, ...]
    content: str = ""
    tools: tuple[Tool, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    thought: str = ""
    enable_thinking: bool = False
    plain_text: str = ""

    def prompt(self) -> str:
        """Return the text the model is given."""
        if not self.messages:
            return self.plain_text
        return render_prompt(self.messages, tools=self.tools, enable_thinking=self.enable_thinking)

    def completion(self) -> str:
        """Return the text the model writes, without the token that ends its turn."""
        answer = self.content or "\n".join(call.text() for call in self.tool_calls)
        return f"<think>\n{self.thought}\n</think>\n\n{answer}" if self.enable_thinking else answer

    def thinking(self) -> "Example":
        """Return the same example with a thinking block."""
        return replace(self, enable_thinking=True)

    def with_system(self, text: str) -> "Example":
        """Return the same example with a system message, unless it has one."""
        if self.messages[0]["role"] == "system":
            return self
        return replace(self, messages=({"role": "system", "content": text}, *self.messages))

    def as_golden(self) -> dict[str, Any]:
        """Return the entry of golden.json: what to send, and what must come back."""
        entry: dict[str, Any] = {"kind": self.kind, "messages": list(self.messages)}
        if self.tools:
            entry["tools"] = list(self.tools)
        if self.enable_thinking:
            entry["enable_thinking"] = True
            entry["reasoning"] = self.thought
        entry["answer"] = self.content
        if self.tool_calls:
            entry["tool_calls"] = [{"name": call.name, "arguments": dict(call.arguments)} for call in self.tool_calls]
        entry["text"] = self.completion()
        return entry
