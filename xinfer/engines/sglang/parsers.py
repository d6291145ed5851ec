"""Which of SGLang's parsers read what a model writes: told from its chat template, not from its name."""

from xinfer.generation.dialects import Dialect, reasoning_dialect, tool_dialect

TOOL_PARSERS: dict[Dialect, str] = {
    Dialect.HERMES: "qwen",
    Dialect.QWEN_XML: "qwen3_coder",
    Dialect.LLAMA_JSON: "llama3",
    Dialect.MISTRAL: "mistral",
    Dialect.DEEPSEEK_V3: "deepseekv3",
    Dialect.DEEPSEEK_V31: "deepseekv31",
    Dialect.GLM: "glm45",
    Dialect.HARMONY: "gpt-oss",
    Dialect.KIMI: "kimi_k2",
    Dialect.MINIMAX: "minimax-m2",
}
REASONING_PARSERS: dict[Dialect, str] = {
    Dialect.THINK_TAGS: "qwen3",
    Dialect.DEEPSEEK_THINK: "deepseek-r1",
    Dialect.MISTRAL: "mistral",
    Dialect.HARMONY: "gpt-oss",
}


def tool_parser(template: str) -> str:
    """The parser of tool calls; empty where the template knows no tools."""
    dialect = tool_dialect(template)
    return TOOL_PARSERS.get(dialect, "") if dialect else ""


def reasoning_parser(template: str) -> str:
    """The parser of reasoning; empty where the template knows none."""
    dialect = reasoning_dialect(template)
    return REASONING_PARSERS.get(dialect, "") if dialect else ""
