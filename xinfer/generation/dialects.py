"""In which form a model writes tool calls and thoughts, told from its chat template.

The template shows the model its own earlier calls, so the marks that it writes around them are the marks that the
model was trained to write.
"""

from enum import StrEnum

THINKING_SWITCHES = ("enable_thinking", "thinking")
"""What templates call whether the model thinks first: most of them the first, DeepSeek, Kimi and Granite the second."""


class Dialect(StrEnum):
    """A form of tool calls or of reasoning, by the family that brought it up."""

    HERMES = "hermes"
    """``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``: Hermes, Qwen 2.5 and 3, and many others."""
    QWEN_XML = "qwen-xml"
    """``<tool_call><function=NAME><parameter=KEY>VALUE``: Qwen3-Coder and later."""
    LLAMA_JSON = "llama-json"
    """A bare ``{"name": ..., "parameters": {...}}``, after ``<|python_tag|>`` or not: Llama 3."""
    MISTRAL = "mistral"
    """``[TOOL_CALLS]`` before a JSON list, or before a name and ``[ARGS]``."""
    DEEPSEEK_V3 = "deepseek-v3"
    """``<｜tool▁calls▁begin｜>`` with the arguments in a fenced JSON block."""
    DEEPSEEK_V31 = "deepseek-v3.1"
    """The same marks with bare JSON."""
    DEEPSEEK_V32 = "deepseek-v3.2"
    """``<｜DSML｜function_calls>`` with every argument between tags of its own."""
    DEEPSEEK_V4 = "deepseek-v4"
    """The same between ``<｜DSML｜tool_calls>``."""
    GLM = "glm"
    """``<tool_call>NAME``, ``<arg_key>KEY</arg_key>``, ``<arg_value>VALUE</arg_value>`` on their own lines: GLM 4.5."""
    GLM_TIGHT = "glm-4.7"
    """The same without the lines."""
    HARMONY = "harmony"
    """Channels: ``<|channel|>commentary to=functions.NAME``, ``<|channel|>analysis``: gpt-oss."""
    KIMI = "kimi"
    """``<|tool_calls_section_begin|>``."""
    MINIMAX = "minimax"
    """``<minimax:tool_call>``."""
    SEED = "seed"
    """That of Qwen3-Coder between ``<seed:tool_call>``: Seed-OSS."""
    FUNCTIONARY = "functionary"
    """``<function=NAME>{...}</function>``."""
    NEMOTRON = "nemotron"
    """``<TOOLCALL>`` around a JSON list: Nemotron Nano 2."""
    APRIEL = "apriel"
    """``<tool_calls>`` around a JSON list."""
    GRANITE = "granite"
    """``<|tool_call|>`` before a JSON list: Granite 3."""
    THINK_TAGS = "think-tags"
    """``<think>...</think>`` before the answer, written by the model, or not at all."""
    DEEPSEEK_THINK = "deepseek-think"
    """The same, but the prompt has already opened the tag."""


_TOOL_MARKS: tuple[tuple[Dialect, tuple[str, ...]], ...] = (
    # The first whose marks are all there. Forms that use marks of others as well come before those.
    (Dialect.HARMONY, ("<|channel|>", "functions")),
    (Dialect.MINIMAX, ("<minimax:tool_call>",)),
    (Dialect.KIMI, ("<|tool_calls_section_begin|>",)),
    (Dialect.DEEPSEEK_V32, ("｜DSML｜", "function_calls>")),
    (Dialect.DEEPSEEK_V4, ("｜DSML｜",)),
    (Dialect.DEEPSEEK_V3, ("<｜tool▁calls▁begin｜>", "```json")),
    (Dialect.DEEPSEEK_V31, ("<｜tool▁calls▁begin｜>",)),
    (Dialect.GLM_TIGHT, ("</arg_key><arg_value>",)),
    (Dialect.GLM, ("<arg_key>",)),
    (Dialect.SEED, ("<seed:tool_call>",)),
    (Dialect.APRIEL, ("<tool_calls>[",)),
    (Dialect.NEMOTRON, ("<TOOLCALL>",)),
    (Dialect.GRANITE, ("<|tool_call|>",)),
    (Dialect.QWEN_XML, ("<tool_call>", "<function=")),
    (Dialect.HERMES, ("<tool_call>",)),
    (Dialect.MISTRAL, ("[TOOL_CALLS]",)),
    (Dialect.FUNCTIONARY, ("<function=", "</function>")),
    (Dialect.LLAMA_JSON, ('"parameters":', "ipython")),
    (Dialect.LLAMA_JSON, ("<|python_tag|>",)),
)


def tool_dialect(template: str) -> Dialect | None:
    """The form of tool calls; None where the template knows no tools, or none that is known here."""
    return next((dialect for dialect, marks in _TOOL_MARKS if all(mark in template for mark in marks)), None)


def reasoning_dialect(template: str) -> Dialect | None:
    """The form of reasoning; None where the template shows none."""
    if "<|channel|>" in template and "analysis" in template:
        return Dialect.HARMONY
    if "[THINK]" in template:
        return Dialect.MISTRAL
    if "</think>" not in template:
        return None
    opened = "<｜Assistant｜><think>" in template and "enable_thinking" not in template
    return Dialect.DEEPSEEK_THINK if opened else Dialect.THINK_TAGS
