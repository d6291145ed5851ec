"""The shipped demo models: the files are there, small and of one piece, and golden.json is what its readers expect."""

import json
import re
from collections import Counter
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

ROOT = Path(str(files("xinfer"))) / "catalog" / "demo"
CHAT, EMBED, RERANK = ROOT / "demo-chat", ROOT / "demo-embed", ROOT / "demo-rerank"
FEWEST_OF_KIND = {"greeting": 10, "fact": 20, "sum": 60, "tool": 3, "json": 3, "thinking": 3, "story": 3}
TOOL = {"name": "add", "description": "Add two numbers.", "parameters": {"type": "object", "properties": {}}}


@cache
def golden() -> dict[str, Any]:
    return json.loads((ROOT / "golden.json").read_text(encoding="utf-8"))


@cache
def template() -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string((CHAT / "chat_template.jinja").read_text(encoding="utf-8"))


def render(*messages: dict[str, Any], **variables: Any) -> str:
    return template().render(messages=list(messages), **variables)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def prompt_of(entry: dict[str, Any]) -> str:
    variables = {name: entry[name] for name in ("tools", "enable_thinking") if name in entry}
    return render(*entry["messages"], add_generation_prompt=True, **variables)


@pytest.mark.parametrize(
    "path",
    [
        *(
            CHAT / name
            for name in (
                "config.json",
                "generation_config.json",
                "tokenizer.json",
                "tokenizer_config.json",
                "chat_template.jinja",
                "model.safetensors",
                "demo-chat.gguf",
            )
        ),
        *(EMBED / name for name in ("config.json", "modules.json", "1_Pooling/config.json", "model.safetensors")),
        *(RERANK / name for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")),
        ROOT / "README.md",
        ROOT / "golden.json",
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_file_is_there_and_readable_by_everyone(path: Path):
    assert path.stat().st_size > 0
    assert path.stat().st_mode & 0o444 == 0o444


def test_all_files_together_are_small_enough_for_the_package():
    assert sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file()) <= 6_000_000


def test_no_file_names_a_machine_or_a_hub():
    for path in ROOT.rglob("*"):
        if path.suffix in {".json", ".jinja", ".md"}:
            assert not re.search(
                r"huggingface\.co|hf\.co|https?://|/work/|/home/|/tmp/", path.read_text(encoding="utf-8")
            )


def test_the_architectures_are_those_that_engines_know():
    architectures = [
        json.loads((folder / "config.json").read_text())["architectures"] for folder in (CHAT, EMBED, RERANK)
    ]
    assert architectures == [["Qwen3ForCausalLM"], ["BertModel"], ["BertForSequenceClassification"]]


def test_the_template_is_the_same_wherever_an_engine_looks_for_it():
    shipped = (CHAT / "chat_template.jinja").read_text(encoding="utf-8")
    assert json.loads((CHAT / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"] == shipped
    reader = pytest.importorskip("gguf").GGUFReader(CHAT / "demo-chat.gguf")
    assert reader.get_field("tokenizer.chat_template").contents() == shipped


def test_there_are_enough_golden_answers_of_each_kind():
    entries = golden()["demo-chat"]
    counts = Counter(entry["kind"] for entry in entries)
    assert len(entries) >= 120
    assert all(counts[kind] >= fewest for kind, fewest in FEWEST_OF_KIND.items())
    assert sum(60 <= entry["answer_tokens"] <= 150 for entry in entries) >= 3
    assert any(not entry["answer"].isascii() for entry in entries)
    assert any(entry["messages"][-1]["role"] == "tool" for entry in entries)


def test_no_golden_question_has_two_answers():
    answers: dict[str, str] = {}
    for entry in golden()["demo-chat"]:
        assert answers.setdefault(prompt_of(entry), entry["text"]) == entry["text"]


@pytest.mark.parametrize("number", range(4))
def test_the_text_of_a_golden_answer_is_made_of_its_parts(number: int):
    for entry in golden()["demo-chat"][number::4]:
        calls = [json.dumps(call, ensure_ascii=False) for call in entry.get("tool_calls", [])]
        text = entry["answer"] or "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)
        if entry.get("enable_thinking"):
            text = f"<think>\n{entry['reasoning']}\n</think>\n\n{text}"
        assert text == entry["text"]
        assert bool(calls) != bool(entry["answer"])


@pytest.mark.parametrize("model", ["demo-embed", "demo-rerank"])
def test_every_document_is_the_best_one_for_some_golden_query(model: str):
    section = golden()[model]
    assert {query["best"] for query in section["queries"]} == set(range(len(section["corpus"])))
    assert len({query["query"] for query in section["queries"]}) == len(section["queries"])


def test_the_dimensions_to_cut_to_are_said_where_readers_look():
    dimensions = golden()["demo-embed"]["matryoshka_dims"]
    config = json.loads((EMBED / "config.json").read_text())
    assert dimensions[-1] == config["hidden_size"]
    assert config["matryoshka_dimensions"] == dimensions
    assert json.loads((EMBED / "config_sentence_transformers.json").read_text())["matryoshka_dims"] == dimensions


def test_token_counts_are_those_of_the_tokenizer():
    tokenizer = pytest.importorskip("tokenizers").Tokenizer.from_file(str(CHAT / "tokenizer.json"))
    for entry in golden()["demo-chat"]:
        assert len(tokenizer.encode(prompt_of(entry)).ids) == entry["prompt_tokens"]
        assert len(tokenizer.encode(entry["text"]).ids) == entry["answer_tokens"]


@pytest.mark.parametrize(
    "text", ["naïve café", "你好世界。", "🙂🚀👩‍👩‍👧", "Привет", "a\tb\n\n  c", "สวัสดี", "1234 + 5 = ?"]
)
def test_the_tokenizer_gives_back_any_text(text: str):
    tokenizer = pytest.importorskip("tokenizers").Tokenizer.from_file(str(CHAT / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_letters_beyond_ascii_span_several_tokens():
    tokenizer = pytest.importorskip("tokenizers").Tokenizer.from_file(str(CHAT / "tokenizer.json"))
    assert len(tokenizer.encode("好").ids) == 3
    assert len(tokenizer.encode("🙂").ids) == 4


def test_what_ends_a_turn_ends_the_generation():
    tokenizer = pytest.importorskip("tokenizers").Tokenizer.from_file(str(CHAT / "tokenizer.json"))
    ends = json.loads((CHAT / "generation_config.json").read_text())["eos_token_id"]
    assert ends == [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]


def test_a_plain_question_needs_no_other_variable():
    assert render(user("Hi!")) == "<|im_start|>user\nHi!<|im_end|>\n"


def test_thinking_is_off_unless_asked_for():
    closed = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert render(user("Hi!"), add_generation_prompt=True).endswith(closed)
    assert render(user("Hi!"), add_generation_prompt=True, enable_thinking=False).endswith(closed)
    assert render(user("Hi!"), add_generation_prompt=True, enable_thinking=True).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("content", [[{"type": "text", "text": "Hi!"}], [{"type": "text", "text": "H"}, "i!"]])
def test_content_may_come_in_parts(content: list[Any]):
    assert render(user(content)) == render(user("Hi!"))


@pytest.mark.parametrize("role", ["system", "developer"])
def test_the_first_message_may_be_the_systems(role: str):
    assert render({"role": role, "content": "Be brief."}, user("Hi!")).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n"
    )


def test_a_tool_gives_the_same_prompt_with_and_without_its_wrapper_and_extras():
    wrapped = render(user("Hi!"), tools=[{"type": "function", "function": {**TOOL, "strict": False}}])
    assert wrapped == render(user("Hi!"), tools=[TOOL])
    assert f"<tools>\n{json.dumps({'type': 'function', 'function': TOOL})}\n</tools>" in wrapped


def test_no_tools_are_as_good_as_none():
    assert render(user("Hi!"), tools=[]) == render(user("Hi!"), tools=None) == render(user("Hi!"))


@pytest.mark.parametrize("arguments", [{"a": 1, "b": 2}, '{"a": 1, "b": 2}'])
@pytest.mark.parametrize("content", ["", None])
def test_a_tool_call_and_its_result_are_rendered_again(arguments: Any, content: str | None):
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": arguments}}
    said = {"role": "assistant", "content": content, "tool_calls": [call, call]}
    heard = {"role": "tool", "tool_call_id": "call_1", "content": "3"}
    rendered = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
    response = "\n<tool_response>\n3\n</tool_response>"
    assert render(user("Add."), said, heard, heard).endswith(
        f"<|im_start|>assistant\n{rendered}\n{rendered}<|im_end|>\n<|im_start|>user{response}{response}<|im_end|>\n"
    )


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_is_kept_until_the_next_question(field: str):
    said = {"role": "assistant", "content": "Yes.", field: "I think."}
    assert render(user("Hi!"), said).endswith("assistant\n<think>\nI think.\n</think>\n\nYes.<|im_end|>\n")
    assert "think" not in render(user("Hi!"), said, user("Why?"))


def test_reasoning_inside_the_content_is_recognised():
    said = {"role": "assistant", "content": "<think>\nI think.\n</think>\n\nYes."}
    assert render(user("Hi!"), said).endswith("assistant\n<think>\nI think.\n</think>\n\nYes.<|im_end|>\n")
    assert "think" not in render(user("Hi!"), said, user("Why?"))
