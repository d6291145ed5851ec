"""Telling a model of its tools where its chat template shows calls, but takes no tools: those of DeepSeek V3 to V3.1.

The words are those that DeepSeek publishes for it, with the form that the model writes calls in.
"""

import json
from collections.abc import Sequence
from typing import Any

from xinfer.generation.tool_calls.json_form import JsonForm

_RULES = """\
Where:

- `tool_call_name` must be an exact match to one of the available tools
- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema"""
_SEVERAL = "- For multiple tool calls, chain them directly without separators or spaces"

Json = dict[str, Any]


def told_of_tools(messages: Sequence[Json], tools: Sequence[Json], form: JsonForm) -> list[Json]:
    """The messages with a description of the tools at the end of the system's.

    Args:
        messages: of a request.
        tools: in the OpenAI shape.
        form: how the model writes calls.
    """
    description = _description([tool["function"] for tool in tools], form)
    first = messages[0]
    if first["role"] not in ("system", "developer"):
        return [{"role": "system", "content": description}, *messages]
    said = first["content"]
    text = said if isinstance(said, str) else "\n".join(part["text"] for part in said)
    return [{**first, "content": f"{text}\n\n{description}"}, *messages[1:]]


def _description(functions: Sequence[Json], form: JsonForm) -> str:
    tools = [
        f"### {function['name']}\nDescription: {function.get('description') or ''}\n\n"
        f"Parameters: {json.dumps(function.get('parameters') or {}, ensure_ascii=False)}\n"
        for function in functions
    ]
    return "\n".join(
        [
            "## Tools\nYou have access to the following tools:\n",
            *tools,
            f"IMPORTANT: ALWAYS adhere to this exact format for tool use:\n{_pattern(form)}\n",
            _RULES if form.is_single else f"{_RULES}\n{_SEVERAL}",
        ]
    )


def _pattern(form: JsonForm) -> str:
    call = form.written.replace("{name}", "tool_call_name").replace("{arguments}", "tool_call_arguments")
    return f"{form.first}{call}{'' if form.is_single else '{{additional_tool_calls}}'}{form.last}"
