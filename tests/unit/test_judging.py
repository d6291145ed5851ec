"""How language models that rerank are asked, by their files, and what vLLM is told about them."""

import json
from pathlib import Path
from typing import Any

import pytest

from xinfer.engines.sglang import ENGINE as SGLANG
from xinfer.engines.vllm.arguments import SERVER
from xinfer.engines.vllm.reranking import reranking_suggestions
from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.generation.judging import Answer, find_judge, is_judge
from xinfer.ops import Kind
from xinfer.spec import Format, ModelSpec

CHATML = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
ROLES = (
    "{{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }}|"
    "{{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }}!"
)
WITH_SYSTEM = "{% if messages[0].role == 'system' %}{{ messages[0].content }}:{% endif %}" + ROLES
SCORES = [{"type": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore", "path": "1_LogitScore"}]


def write(folder: Path, template: str = "", modules: Any = None, scoring: Any = None, **config: Any) -> Path:
    contents = {
        "config.json": {"architectures": ["Qwen3ForCausalLM"], **config},
        "tokenizer_config.json": {"chat_template": template, "bos_token": "<s>"} if template else {"bos_token": "<s>"},
        "modules.json": modules,
        "1_LogitScore/config.json": scoring,
    }
    (folder / "1_LogitScore").mkdir()
    for name, content in contents.items():
        if content is not None:
            (folder / name).write_text(json.dumps(content))
    return folder


def spec_of(folder: Path, kind: Kind = Kind.RERANK) -> ModelSpec:
    return ModelSpec(name="m", kind=kind, source=str(folder), format=Format.SAFETENSORS)


def test_a_chat_model_says_yes_or_no(tmp_path):
    judge = find_judge(write(tmp_path, CHATML))
    assert judge is not None
    assert judge.answer == Answer("yes", "no")
    question = judge.question("why?", "Only reasons.")
    assert question.before.endswith("user\n<Instruct>: Only reasons.\n<Query>: why?\n<Document>: ")
    assert question.after == "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert "Given a web search query" in judge.question("why?").before
    assert reranking_suggestions(spec_of(tmp_path)) == {
        "hf_overrides": {
            "architectures": ["Qwen3ForSequenceClassification"],
            "classifier_from_token": ["no", "yes"],
            "method": "from_2_way_softmax",
            "num_labels": 1,
        },
        "chat_template": judge.template.source,
    }


def test_a_model_without_a_template_is_asked_a_question(tmp_path):
    judge = find_judge(write(tmp_path, architectures=["GemmaForCausalLM"]))
    assert judge is not None
    assert judge.answer == Answer("Yes")
    question = judge.question("why?")
    assert question.before == "<s>A: why?\nB: "
    assert question.after.startswith("\nGiven a query A and a passage B, determine")
    found = reranking_suggestions(spec_of(tmp_path))["hf_overrides"]
    assert (found["architectures"], found["classifier_from_token"], found["method"]) == (
        ["GemmaForSequenceClassification"],
        ["Yes"],
        "no_post_processing",
    )


def test_what_the_folder_describes_goes_first(tmp_path):
    judge = find_judge(write(tmp_path, WITH_SYSTEM, SCORES, {"true_token_id": 7, "false_token_id": None}))
    assert judge is not None
    assert judge.answer == Answer(7)
    assert tuple(map(str, (judge.question("q").before, judge.question("q").after))) == ("q|", "!")
    assert judge.question("q", "Be fair").before == "Be fair:q|"


def test_an_instruction_that_has_no_place_is_refused(tmp_path):
    judge = find_judge(write(tmp_path, ROLES, SCORES, {"true_token_id": 7}))
    assert judge is not None
    with pytest.raises(UnsupportedParameter, match="takes no instruction"):
        judge.question("q", "Be fair")


def test_a_template_without_a_place_for_the_document_is_refused(tmp_path):
    twice = ROLES + "{# document #}{{ messages[-1].content }}"
    judge = find_judge(write(tmp_path, twice, SCORES, {"true_token_id": 7}))
    assert judge is not None
    with pytest.raises(InvalidRequest, match="no place, or several, for the document"):
        judge.question("q")


def test_tokens_of_neither_form_are_those_of_the_form_that_it_has(tmp_path):
    judge = find_judge(write(tmp_path, CHATML, SCORES, {"true_token_id": 7, "false_token_id": 8}))
    assert judge is not None
    assert judge.answer == Answer(7, 8)
    assert "<Instruct>" in judge.question("q").before


@pytest.mark.parametrize(
    ("modules", "config"),
    [
        (None, {"architectures": ["BertForSequenceClassification"]}),
        ([{"type": "x.Transformer"}], {}),
        (None, {"architectures": []}),
    ],
)
def test_other_models_are_no_judges(tmp_path, modules, config):
    folder = write(tmp_path, CHATML, modules, **config)
    assert not is_judge(folder)
    assert reranking_suggestions(spec_of(folder)) == {}


def test_only_rerankers_are(tmp_path):
    folder = write(tmp_path, CHATML)
    assert is_judge(folder)
    assert reranking_suggestions(spec_of(folder, Kind.LLM)) == {}
    assert "asked for its judgement" in SGLANG.accepts(spec_of(folder)).reason
    assert SGLANG.accepts(spec_of(folder, Kind.LLM)).ok
    (folder / "config.json").write_text("{")
    assert not is_judge(folder)


def test_a_launch_may_say_it_otherwise(tmp_path):
    suggested = reranking_suggestions(spec_of(write(tmp_path, CHATML)))
    words = SERVER.command_line(suggested, {"hf_overrides": {"num_labels": 2}}, {}, {})
    assert words[words.index("--hf-overrides") + 1] == '{"num_labels": 2}'
