"""The chat template of demo-chat, and how this project renders it.

ChatML with Hermes-style tools, as Qwen3 has it, so that every engine's parsers for that family fit. Three things differ
from Qwen3 on purpose:

* thinking is off unless `enable_thinking` is true;
* a tool's signature is written from its name, description and parameters, so that a tool with or without its
  `{"type": "function"}` wrapper, and with or without fields an engine adds (`strict`), gives the same prompt;
* content may be a string, a list of text parts, or absent.

The template asks for nothing but plain Jinja: it holds in a sandbox, and with strict undefined variables.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"

Message: TypeAlias = Mapping[str, Any]
Tool: TypeAlias = Mapping[str, Any]

CHAT_TEMPLATE = r"""
{%- macro text_of(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- elif content is mapping -%}
        {{- content | tojson -}}
    {%- elif content -%}
        {%- for part in content -%}
            {%- if part is string -%}
                {{- part -}}
            {%- elif part.text is defined -%}
                {{- part.text -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- macro signature_of(tool) -%}
    {%- set function = tool.function if tool.function is defined else tool -%}
    {{- '{"type": "function", "function": {"name": ' -}}
    {{- function.name | tojson -}}
    {%- if function.description is defined and function.description -%}
        {{- ', "description": ' -}}
        {{- function.description | tojson -}}
    {%- endif -%}
    {%- if function.parameters is defined and function.parameters -%}
        {{- ', "parameters": ' -}}
        {{- function.parameters | tojson -}}
    {%- endif -%}
    {{- '}}' -}}
{%- endmacro -%}
{%- set has_tools = tools is defined and tools -%}
{%- set has_system = messages and messages[0].role in ['system', 'developer'] -%}
{%- if has_system or has_tools -%}
    {{- '<|im_start|>system\n' -}}
    {%- if has_system -%}
        {{- text_of(messages[0].content) -}}
    {%- endif -%}
    {%- if has_tools -%}
        {%- if has_system -%}
            {{- '\n\n' -}}
        {%- endif -%}
        {{- '# Tools\n\nYou may call one or more of these functions:\n<tools>' -}}
        {%- for tool in tools -%}
            {{- '\n' -}}
            {{- signature_of(tool) -}}
        {%- endfor -%}
        {{- '\n</tools>\n\nTo call one, answer with a JSON object with its name and arguments:\n' -}}
        {{- '<tool_call>\n{"name": <name>, "arguments": <object>}\n</tool_call>' -}}
    {%- endif -%}
    {{- '<|im_end|>\n' -}}
{%- endif -%}
{%- set last = namespace(user=-1) -%}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}
        {%- set last.user = loop.index0 -%}
    {%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
    {%- if message.role == 'assistant' -%}
        {%- set content = text_of(message.content if message.content is defined else '') -%}
        {%- set reasoning = '' -%}
        {%- if message.reasoning_content is defined and message.reasoning_content -%}
            {%- set reasoning = message.reasoning_content -%}
        {%- elif message.reasoning is defined and message.reasoning -%}
            {%- set reasoning = message.reasoning -%}
        {%- elif '</think>' in content -%}
            {%- set reasoning = content.split('</think>')[0].split('<think>')[-1].strip() -%}
            {%- set content = content.split('</think>')[-1].lstrip('\n') -%}
        {%- endif -%}
        {{- '<|im_start|>assistant\n' -}}
        {%- if reasoning and loop.index0 > last.user -%}
            {{- '<think>\n' -}}
            {{- reasoning -}}
            {{- '\n</think>\n\n' -}}
        {%- endif -%}
        {{- content -}}
        {%- if message.tool_calls is defined and message.tool_calls -%}
            {%- for tool_call in message.tool_calls -%}
                {%- set call = tool_call.function if tool_call.function is defined else tool_call -%}
                {%- if content or not loop.first -%}
                    {{- '\n' -}}
                {%- endif -%}
                {{- '<tool_call>\n{"name": "' -}}
                {{- call.name -}}
                {{- '", "arguments": ' -}}
                {%- if call.arguments is string -%}
                    {{- call.arguments -}}
                {%- else -%}
                    {{- call.arguments | tojson -}}
                {%- endif -%}
                {{- '}\n</tool_call>' -}}
            {%- endfor -%}
        {%- endif -%}
        {{- '<|im_end|>\n' -}}
    {%- elif message.role == 'tool' -%}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' -%}
            {{- '<|im_start|>user' -}}
        {%- endif -%}
        {{- '\n<tool_response>\n' -}}
        {{- text_of(message.content) -}}
        {{- '\n</tool_response>' -}}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}
            {{- '<|im_end|>\n' -}}
        {%- endif -%}
    {%- elif not (loop.first and has_system) -%}
        {{- '<|im_start|>' -}}
        {{- message.role -}}
        {{- '\n' -}}
        {{- text_of(message.content) -}}
        {{- '<|im_end|>\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt is defined and add_generation_prompt -%}
    {{- '<|im_start|>assistant\n' -}}
    {%- if not (enable_thinking is defined and enable_thinking) -%}
        {{- '<think>\n\n</think>\n\n' -}}
    {%- endif -%}
{%- endif -%}
""".strip()


@cache
def _compiled_template() -> jinja2.Template:
    """Return the template, compiled in the strictest environment an engine could use.

    `tojson` is that of transformers: keys keep their order, and text its letters. Jinja's own sorts and escapes them.
    """
    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(CHAT_TEMPLATE)


def render_prompt(messages: Sequence[Message], *, tools: Sequence[Tool] = (), enable_thinking: bool = False) -> str:
    """Return the prompt for the next assistant turn, exactly as an engine renders it."""
    return _compiled_template().render(
        messages=messages,
        tools=tools or None,
        add_generation_prompt=True,
        enable_thinking=enable_thinking,
    )
