"""One grammar for a whole answer: thoughts, then tool calls or text in the form that was asked for.

It is a grammar over the text as the parsers of this package see it, so what it lets through they read.
"""

import json
from typing import Any

import msgspec

from xinfer.generation.lark import ANYTHING, LarkRules, json_value, literal, regex
from xinfer.generation.reasoning import ReasoningForm
from xinfer.generation.tool_calls import Tool, ToolForm
from xinfer.protocols.structured import Structure, StructureKind

INNER = "inner"
"""The name by which a grammar refers to the client's own."""


class Grammar(msgspec.Struct, frozen=True):
    """What an answer may be."""

    lark: str
    param: str
    """The field of the request that it comes from, for errors."""
    inner: str = ""
    """The client's own grammar in Lark or GBNF, where it has one."""


class CallRules(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of tool calls."""

    form: ToolForm
    tools: tuple[Tool, ...]
    """Those that may be called."""
    forced: bool
    """There must be one."""
    single: bool
    """There may be no second one."""


def answer_grammar(
    structure: Structure | None, calls: CallRules | None, reasoning: ReasoningForm | None, prompt: str
) -> Grammar | None:
    """The grammar that holds an answer to what was asked; ``None``: any text will do.

    Args:
        structure: the form of an answer that is no call.
        calls: which calls there may be; ``None``: none.
        reasoning: how the model marks its thoughts, which come before everything else and may be any text.
        prompt: the rendered prompt, which may have begun the thoughts.
    """
    is_strict = calls is not None and any(tool.strict for tool in calls.tools)
    if structure is None and not is_strict and not (calls and calls.forced):
        return None
    rules = LarkRules()
    lead, before = reasoning.lead(rules, prompt) if reasoning else ("", "")
    if calls is not None and calls.forced:
        answer = _calls(rules, calls)
    elif structure is not None:
        body = f"{before} {_body(structure)}".strip()
        answer = f"{body} | {_calls(rules, calls)}" if calls else body
    else:
        assert calls is not None
        answer = _text_or_calls(rules, calls, before)
    return Grammar(
        rules.text(f"{lead} {rules.add(answer)}".strip()),
        _param(structure, calls),
        structure.definition if structure and structure.kind is StructureKind.GRAMMAR else "",
    )


def _param(structure: Structure | None, calls: CallRules | None) -> str:
    return structure.param if structure and not (calls and calls.forced) else "tools"


def _calls(rules: LarkRules, calls: CallRules, skip: str = "") -> str:
    return calls.form.grammar(rules, calls.tools, single=calls.single, skip=skip)


def _text_or_calls(rules: LarkRules, calls: CallRules, before: str) -> str:
    """Any text, but a call in it is one of a tool and follows its schema."""
    trigger = calls.form.trigger
    if before:
        return f"{before} {ANYTHING} | {_calls(rules, calls)}"
    if not trigger:
        return rf"/[^{{\s](?s:.*)/ | {_calls(rules, calls)}"
    opened = rules.add(f"{ANYTHING} {literal(trigger)}", options="lazy")
    return f"{ANYTHING} | {opened} {_calls(rules, calls, skip=trigger)}"


def _body(structure: Structure) -> str:
    definition = structure.definition
    match structure.kind:
        case StructureKind.JSON:
            schema: dict[str, Any] = json.loads(definition)
            return json_value(schema, strict=structure.strict, white_space=structure.white_space)
        case StructureKind.REGEX:
            return regex(definition)
        case StructureKind.CHOICE:
            return f"({' | '.join(literal(choice) for choice in json.loads(definition))})"
        case StructureKind.GRAMMAR:
            return f"@{INNER}"
