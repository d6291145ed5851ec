"""The forms of tool calls that are in use, by family: what the templates of models show them of their own calls."""

import re

import msgspec

from xinfer.generation.tool_calls.json_form import JsonForm
from xinfer.generation.tool_calls.tagged_form import TaggedForm

HERMES = JsonForm(
    openings=("<tool_call>",),
    written='<tool_call>\n{"name": "{name}", "arguments": {arguments}}\n</tool_call>',
    separator="\n",
    has_envelope=True,
    close=("</tool_call>",),
    marks=("<tool_call>", "</tool_call>"),
)
LLAMA = JsonForm(
    openings=("<|python_tag|>",),
    written='{"name": "{name}", "parameters": {arguments}}',
    separator="; ",
    has_envelope=True,
    is_bare=True,
    marks=("<|python_tag|>",),
)
MISTRAL_LIST = JsonForm(
    openings=("[TOOL_CALLS]",),
    first="[TOOL_CALLS] [",
    written='{"name": "{name}", "arguments": {arguments}}',
    separator=", ",
    last="]",
    has_envelope=True,
    head=re.compile(r"\s*(?P<name>[\w.-]+)(?:\[CALL_ID\](?P<id>\w+))?(?:\[ARGS\])?\s*(?=\{)"),
    nexts=(",",),
    ends=("]",),
    marks=("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
    id_alphabet="abcdefghijklmnopqrstuvwxyz0123456789",
    id_length=9,
)
MISTRAL_NAMED = msgspec.structs.replace(
    MISTRAL_LIST, first="", written="[TOOL_CALLS]{name}[ARGS]{arguments}", separator="", last=""
)
MISTRAL_TIGHT_LIST = msgspec.structs.replace(MISTRAL_LIST, first="[TOOL_CALLS][")
MISTRAL_WITH_IDS = msgspec.structs.replace(MISTRAL_NAMED, written="[TOOL_CALLS]{name}[CALL_ID]{id}[ARGS]{arguments}")
DEEPSEEK_V3 = JsonForm(
    openings=("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
    section="<｜tool▁calls▁begin｜>",
    first="<｜tool▁calls▁begin｜>",
    written="<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```<｜tool▁call▁end｜>",
    separator="\n",
    last="<｜tool▁calls▁end｜>",
    head=re.compile(r"\s*\w*\s*<｜tool▁sep｜>\s*(?P<name>[^\s<`]+)\s*```(?:json)?\s*(?=\{)"),
    close=("<｜tool▁call▁end｜>",),
    nexts=("<｜tool▁call▁begin｜>",),
    ends=("<｜tool▁calls▁end｜>",),
    marks=(
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
    ),
)
DEEPSEEK_V31 = msgspec.structs.replace(
    DEEPSEEK_V3,
    written="<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>",
    separator="",
    head=re.compile(r"\s*(?P<name>[^\s<]+)\s*<｜tool▁sep｜>\s*(?=\{)"),
)
KIMI = JsonForm(
    openings=("<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
    section="<|tool_calls_section_begin|>",
    first="<|tool_calls_section_begin|>",
    written="<|tool_call_begin|>functions.{name}:{number}<|tool_call_argument_begin|>{arguments}<|tool_call_end|>",
    last="<|tool_calls_section_end|>",
    head=re.compile(r"\s*(?P<id>(?:functions\.)?(?P<name>[^\s<:]+):\d+)\s*<\|tool_call_argument_begin\|>\s*(?=\{)"),
    close=("<|tool_call_end|>",),
    nexts=("<|tool_call_begin|>",),
    ends=("<|tool_calls_section_end|>",),
    marks=(
        "<|tool_calls_section_begin|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        "<|tool_calls_section_end|>",
    ),
)
HARMONY = JsonForm(
    openings=("<|channel|>",),
    written="<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{arguments}",
    head=re.compile(r"\w+ to=functions\.(?P<name>[^\s<]+)[^{}]*?<\|message\|>\s*(?=\{)"),
    close=("<|call|>", "<|end|>"),
    is_single=True,
    marks=("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|constrain|>", "<|call|>"),
)
QWEN_XML = TaggedForm(
    opening="<tool_call>",
    lead="\n<function=",
    named=">\n",
    head=re.compile(r"\s*<function=(?P<name>[^>\s]+)\s*>"),
    key="<parameter=",
    key_pattern=re.compile(r"<parameter=(?P<key>[^>]+)>"),
    argument="<parameter={key}>",
    value_end="</parameter>",
    between="\n",
    own_line=True,
    end="</function>",
    close="</tool_call>",
    behind="</function>\n</tool_call>",
    marks=("<tool_call>", "</tool_call>"),
)
GLM = TaggedForm(
    opening="<tool_call>",
    lead="",
    named="\n",
    head=re.compile(r"\s*(?P<name>[^\s<{]+)\s*(?=<)"),
    key="<arg_key>",
    key_pattern=re.compile(r"<arg_key>(?P<key>[^<]+)</arg_key>\s*<arg_value>"),
    argument="<arg_key>{key}</arg_key>\n<arg_value>",
    value_end="</arg_value>",
    between="\n",
    end="",
    close="</tool_call>",
    behind="</tool_call>",
    marks=("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
)
GLM_TIGHT = msgspec.structs.replace(GLM, named="", argument="<arg_key>{key}</arg_key><arg_value>", between="")
MINIMAX = TaggedForm(
    opening="<minimax:tool_call>",
    lead='\n<invoke name="',
    named='">\n',
    head=re.compile(r'\s*<invoke name="(?P<name>[^">]+)"\s*>'),
    key="<parameter name=",
    key_pattern=re.compile(r'<parameter name="(?P<key>[^">]+)"\s*>'),
    argument='<parameter name="{key}">',
    value_end="</parameter>",
    between="\n",
    end="</invoke>",
    close="</minimax:tool_call>",
    behind="</invoke>",
    shares_opening=True,
    marks=("<minimax:tool_call>", "</minimax:tool_call>"),
)
DEEPSEEK_V32 = TaggedForm(
    opening="<｜DSML｜function_calls>",
    lead='\n<｜DSML｜invoke name="',
    named='">\n',
    head=re.compile(r'\s*<｜DSML｜invoke name="(?P<name>[^">]+)"\s*>'),
    key="<｜DSML｜parameter name=",
    key_pattern=re.compile(r'<｜DSML｜parameter name="(?P<key>[^">]+)"(?: string="(?P<text>true|false)")?\s*>'),
    argument='<｜DSML｜parameter name="{key}" string="{text}">',
    value_end="</｜DSML｜parameter>",
    between="\n",
    end="</｜DSML｜invoke>",
    close="</｜DSML｜function_calls>",
    behind="</｜DSML｜invoke>",
    shares_opening=True,
    marks=("｜DSML｜",),
)
DEEPSEEK_V4 = msgspec.structs.replace(DEEPSEEK_V32, opening="<｜DSML｜tool_calls>", close="</｜DSML｜tool_calls>")
SEED = msgspec.structs.replace(
    QWEN_XML,
    opening="<seed:tool_call>",
    own_line=False,
    close="</seed:tool_call>",
    behind="</function>\n</seed:tool_call>",
    marks=("<seed:tool_call>", "</seed:tool_call>"),
)
FUNCTIONARY = JsonForm(
    openings=("<function=",),
    written="<function={name}>{arguments}</function>",
    head=re.compile(r"(?P<name>[^>\s]+)>\s*(?=\{)"),
    close=("</function>",),
)


def _list_after(opening: str, close: str = "") -> JsonForm:
    """Envelopes in a list behind a mark, and perhaps another mark behind that."""
    return JsonForm(
        openings=(opening,),
        first=opening + "[",
        written='{"name": "{name}", "arguments": {arguments}}',
        separator=", ",
        last="]" + close,
        has_envelope=True,
        nexts=(",",),
        ends=("]" + close, "]\n" + close) if close else ("]",),
        marks=(opening, *filter(None, (close,))),
    )


NEMOTRON = _list_after("<TOOLCALL>", "</TOOLCALL>")
APRIEL = _list_after("<tool_calls>", "</tool_calls>")
GRANITE = _list_after("<|tool_call|>")
