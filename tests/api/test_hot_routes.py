"""What clients see of the inference routes when all is well, and of requests that no replica should get."""

import json

import pytest

from xinfer.engines.base import JSON_HEAD, Load
from xinfer.ops import OPS_OF_KIND, Kind
from xinfer.routes import Availability

CHAT = {"model": "m", "messages": [{"role": "user", "content": "one two three"}]}
HOT_PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank", "/rerank", "/v2/rerank"]


def test_chat(play):
    async def scenario(stage):
        await stage.serve("m")
        reply = await stage.post("/v1/chat/completions", CHAT)
        assert reply.status == 200
        assert reply.headers["content-type"] == "application/json"
        assert reply.headers["content-length"] == str(len(reply.body))
        assert reply.json["choices"][0]["message"]["content"] == "one two three"
        assert reply.json["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
        assert reply.json["model"] == "m"

    play(scenario)


def test_chat_as_a_stream(play):
    async def scenario(stage):
        await stage.serve("m")
        body = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
        reply = await stage.post("/v1/chat/completions", body)
        assert reply.status == 200
        assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert "content-length" not in reply.headers
        *chunks, usage, done = reply.events
        assert done == "[DONE]"
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "one two three"
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
        assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 6)

    play(scenario)


def test_a_stream_arrives_as_it_is_made(play):
    async def scenario(stage):
        await stage.serve("m", rate=200.0)
        reply = await stage.post("/v1/chat/completions", CHAT | {"stream": True})
        assert len([chunk for chunk in reply.chunks if chunk]) >= 4

    play(scenario)


@pytest.mark.parametrize("stream", [False, True])
def test_completions(play, stream):
    async def scenario(stage):
        await stage.serve("m")
        body = {"model": "m", "prompt": ["a b", "c d e"], "stream": stream}
        reply = await stage.post("/v1/completions", body)
        assert reply.status == 200
        texts = ["", ""]
        for part in reply.events[:-1] if stream else [reply.json]:
            for choice in part["choices"]:
                texts[choice["index"]] += choice["text"]
        assert texts == ["a b", "c d e"]

    play(scenario)


def test_embeddings(play):
    async def scenario(stage):
        await stage.serve("m", dimensions=8)
        reply = await stage.post("/v1/embeddings", {"model": "m", "input": ["a", "b", "a"]})
        assert reply.status == 200
        first, second, third = (item["embedding"] for item in reply.json["data"])
        assert len(first) == 8
        assert first == third != second

    play(scenario)


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
def test_rerank(play, path):
    async def scenario(stage):
        await stage.serve("m")
        reply = await stage.post(path, {"model": "m", "query": "red fox", "documents": ["a blue whale", "the red fox"]})
        assert reply.status == 200
        assert [result["index"] for result in reply.json["results"]] == [1, 0]

    play(scenario)


def test_a_large_answer_arrives_whole(play):
    async def scenario(stage):
        await stage.serve("m")
        reply = await stage.post("/v1/embeddings", {"model": "m", "input": ["w"] * 2048})
        assert len(reply.json["data"]) == 2048
        assert len(reply.body) > 500_000

    play(scenario)


# --- refused without a replica ----------------------------------------------------------------------------------------


def test_an_unknown_model_is_told_without_naming_others(play):
    async def scenario(stage):
        await stage.serve("the-secret-model")
        reply = await stage.post("/v1/chat/completions", CHAT | {"model": "nonesuch"})
        assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "model_not_found", "model")
        assert "nonesuch" in reply.error["message"]
        assert b"secret" not in reply.body
        reply = await stage.post("/v1/chat/completions", CHAT | {"model": "x" * 100_000})
        assert reply.status == 404
        assert len(reply.body) < 1000

    play(scenario)


def test_a_model_that_cannot_do_it_says_what_it_can(play):
    async def scenario(stage):
        stage.publish("e", await stage.replica("e"), ops=OPS_OF_KIND[Kind.EMBEDDING])
        reply = await stage.post("/v1/chat/completions", CHAT | {"model": "e"})
        assert (reply.status, reply.error["param"]) == (400, "model")
        assert "cannot do chat; it can do: detokenize, embedding," in reply.error["message"]

    play(scenario)


def test_a_model_that_loads_asks_for_patience(play):
    async def scenario(stage):
        stage.publish("m", availability=Availability.LOADING, message="downloading, 40 %")
        reply = await stage.post("/v1/chat/completions", CHAT)
        assert (reply.status, reply.error["code"], reply.error["message"]) == (503, "not_ready", "downloading, 40 %")
        assert int(reply.headers["retry-after"]) > 0

    play(scenario)


def test_a_model_that_failed_says_why(play):
    async def scenario(stage):
        stage.publish("m", availability=Availability.FAILED, message="the weights are cut off")
        reply = await stage.post("/v1/chat/completions", CHAT)
        assert (reply.status, reply.error["message"]) == (503, "the weights are cut off")
        assert int(reply.headers["retry-after"]) > 0

    play(scenario)


@pytest.mark.parametrize("path", HOT_PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"])
def test_only_post_is_allowed(play, path, method):
    async def scenario(stage):
        reply = await stage.request(method, path)
        assert (reply.status, reply.headers["allow"], reply.error["code"]) == (405, "POST", "method_not_allowed")

    play(scenario)


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/chat", "/v1/chat/completions/", "/v1//embeddings", "/v1/unheard"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_path_is_an_error_in_our_shape(play, path, method):
    async def scenario(stage):
        reply = await stage.request(method, path)
        assert (reply.status, reply.error["code"]) == (404, "not_found")
        assert f"{method} {path}" in reply.error["message"]

    play(scenario)


def test_errors_of_the_engine_keep_their_status_and_parameter(play):
    async def scenario(stage):
        await stage.serve("m", context_length=5)
        reply = await stage.post("/v1/chat/completions", CHAT | {"max_tokens": 3})
        assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")
        assert reply.error["param"] == "messages"
        assert "5 tokens" in reply.error["message"]
        reply = await stage.post("/v1/completions", {"model": "m", "prompt": "a b c d e f"})
        assert (reply.status, reply.error["param"]) == (400, "prompt")
        reply = await stage.post("/v1/chat/completions", CHAT | {"logit_bias": {"1": 1}})
        assert (reply.status, reply.error["code"], reply.error["param"]) == (
            400,
            "unsupported_parameter",
            "logit_bias",
        )

    play(scenario)


# --- request ids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "echoed"),
    [
        (b"abc-123", "abc-123"),
        (b"a\r\nset-cookie: b", "aset-cookie:b"),
        ("smörgås".encode(), "smrgs"),
        (b"\xff\x00ok", "ok"),
        (b"x" * 1000, "x" * 128),
    ],
)
def test_the_request_id_of_the_client_comes_back_clean(play, given, echoed):
    async def scenario(stage):
        await stage.serve("m")
        for body in (CHAT, CHAT | {"model": "nonesuch"}, b"no json"):
            reply = await stage.post("/v1/chat/completions", body, headers={"x-request-id": given})
            assert reply.headers["x-request-id"] == echoed
        reply = await stage.post("/v1/chat/completions", CHAT, headers={"x-request-id": given})
        assert reply.json["id"] == f"chatcmpl-{echoed}"

    play(scenario)


@pytest.mark.parametrize("given", [{}, {"x-request-id": b""}, {"x-request-id": b" \t"}])
def test_a_request_without_an_id_gets_one_of_its_own(play, given):
    async def scenario(stage):
        await stage.serve("m")
        ids = [(await stage.post("/v1/chat/completions", CHAT, headers=given)).headers["x-request-id"] for _ in "ab"]
        assert len(set(ids)) == 2
        assert all(len(one) == 24 for one in ids)

    play(scenario)


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_requests_are_counted_by_operation_model_and_status(play):
    async def scenario(stage):
        await stage.serve("m")
        await stage.post("/v1/chat/completions", CHAT)
        await stage.post("/v1/chat/completions", CHAT | {"stream": True})
        await stage.post("/v1/embeddings", {"model": "m", "input": ""})
        assert await stage.counted(op="chat", model="m", status="200") == 2
        assert await stage.counted(op="embedding", model="m", status="400") == 1
        text = (await stage.get("/metrics")).body.decode()
        assert 'xinfer_request_duration_seconds_count{model="m",op="chat"} 2.0' in text
        assert 'xinfer_time_to_first_byte_seconds_count{model="m",op="chat"} 1.0' in text
        assert 'xinfer_replica_requests_running{replica="m-0"} 0.0' in text

    play(scenario)


def test_what_clients_make_up_adds_no_series(play):
    async def scenario(stage):
        await stage.serve("m")
        for number in range(20):
            await stage.post("/v1/chat/completions", CHAT | {"model": f"made-up-{number}"})
            await stage.post("/v1/chat/completions", b'{"model": "made-up-%d"' % number)
            await stage.request("GET", "/v1/chat/completions")
        text = (await stage.get("/metrics")).body.decode()
        assert "made-up" not in text
        assert await stage.counted(op="chat", model="", status="404") == 20
        assert await stage.counted(op="chat", model="", status="400") == 20
        assert await stage.counted(op="chat", model="", status="405") == 20

    play(scenario)


def test_the_series_of_a_replica_goes_with_it(play):
    async def scenario(stage):
        [replica] = await stage.serve("m")
        stage.withdraw("m")
        replica.die()
        await stage.until(lambda: not stage.gateway.loads())
        assert 'replica="m-0"' not in (await stage.get("/metrics")).body.decode()

    play(scenario)


def test_the_body_reaches_the_engine_byte_for_byte(play):
    class Mirror:
        def load_report(self):
            return Load()

        def failure(self):
            return ""

        async def serve(self, call):
            yield JSON_HEAD
            yield json.dumps([call.body.decode(), call.model, call.request_id, call.headers]).encode()

    async def scenario(stage):
        stage.publish("m", await stage.replica("m", Mirror()))
        body = b'{ "model":"m" ,\n "messages": [], "b": 1, "a": 1.50, "\\u0061": null }'
        headers = {"x-request-id": "r1", "traceparent": "00-1", "authorization": "Bearer secret"}
        reply = await stage.post("/v1/chat/completions", [body[:10], body[10:20], body[20:], b""], headers=headers)
        assert reply.json == [body.decode(), "m", "r1", [["traceparent", "00-1"]]]

    play(scenario)
