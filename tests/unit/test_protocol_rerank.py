import json

import pytest

from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.protocols.rerank import encode_rerank, parse_rerank


def body(**fields):
    return json.dumps({"model": "m", "query": "q", "documents": ["a", "b", "c"]} | fields).encode()


def answer(scores, **fields):
    request = parse_rerank(body(**fields))
    return json.loads(encode_rerank(request, scores, request_id="rerank-1", model="m", prompt_tokens=12))


def test_documents_are_strings_or_objects_with_a_text():
    assert parse_rerank(body(documents=["a", {"text": "b"}])).documents == ["a", "b"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": ""}, "query"),
        ({"query": None}, "query"),
        ({"query": ["a"]}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": "a"}, "documents"),
        ({"documents": ["a", 1]}, "documents"),
        ({"documents": [{"title": "a"}]}, "documents"),
        ({"top_n": -1}, "top_n"),
        ({"top_n": 1.5}, "top_n"),
        ({"return_documents": "yes"}, "return_documents"),
        ({"max_chunks_per_doc": 0}, "max_chunks_per_doc"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"kwargs": "{"}, "kwargs"),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(fields, param):
    with pytest.raises(InvalidRequest) as caught:
        parse_rerank(body(**fields))
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    ("fields", "param"), [({"rank_fields": ["a"]}, "rank_fields"), ({"kwargs": '{"depth": 1}'}, "depth")]
)
def test_what_we_do_not_know_is_refused_by_its_name(fields, param):
    with pytest.raises(UnsupportedParameter) as caught:
        parse_rerank(body(**fields))
    assert caught.value.param == param


def test_everything_that_xinferences_client_sends_is_accepted():
    sent = {"top_n": None, "max_chunks_per_doc": None, "return_documents": None, "return_len": None, "kwargs": "{}"}
    request = parse_rerank(body(**sent))
    assert (request.top_n, request.return_documents, request.return_len) == (None, True, False)


def test_results_are_sorted_best_first_and_ties_keep_the_order_of_the_documents():
    assert [result["index"] for result in answer([0.5, 0.9, 0.5])["results"]] == [1, 0, 2]


@pytest.mark.parametrize(("top_n", "count"), [(None, 3), (0, 0), (2, 2), (50, 3)])
def test_top_n_bounds_the_results(top_n, count):
    assert len(answer([0.1, 0.2, 0.3], top_n=top_n)["results"]) == count


def test_the_answer_is_readable_for_clients_of_vllm_and_of_xinference():
    full = answer([0.25, 0.75, 0.5], top_n=1, return_len=True)
    assert full == {
        "id": "rerank-1",
        "model": "m",
        "results": [{"index": 1, "relevance_score": 0.75, "document": {"text": "b"}}],
        "usage": {"prompt_tokens": 12, "total_tokens": 12},
        "meta": {
            "api_version": None,
            "billed_units": None,
            "tokens": {"input_tokens": 12, "output_tokens": 0},
            "warnings": None,
        },
    }


def test_documents_and_token_counts_are_left_out_on_request():
    short = answer([0.25, 0.75, 0.5], return_documents=False)
    assert all("document" not in result for result in short["results"])
    assert short["meta"]["tokens"] is None
