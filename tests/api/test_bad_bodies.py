"""Bodies and headers that are wrong get a 4xx that says how, never a 5xx, and leave the gateway as it was."""

import gzip
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
GOOD = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "m", "prompt": "hello"},
    "/v1/embeddings": {"model": "m", "input": "hello"},
    "/v1/rerank": {"model": "m", "query": "q", "documents": ["a", "b"]},
}
DEEP = 100_000


def spliced(path: str, extra: bytes) -> bytes:
    """A good body with further bytes before its closing brace."""
    return json.dumps(GOOD[path]).encode()[:-1] + extra + b"}"


NO_JSON = {
    "empty": b"",
    "white space": b" \n ",
    "cut off": b'{"model": "m", "messages": [{"role": "us',
    "cut off in an escape": b'{"model": "m\\u00',
    "text": b"hello",
    "a form": b"model=m&prompt=hello",
    "two objects": b'{"model": "m"}{"model": "m"}',
    "single quotes": b"{'model': 'm'}",
    "a trailing comma": b'{"model": "m",}',
    "a comment": b'{"model": "m"} // hello',
    "invalid utf-8": b'{"model": "\xff\xfe"}',
    "utf-16": '{"model": "m"}'.encode("utf-16"),
    "half a surrogate": b'{"model": "\\ud800"}',
    "a byte order mark": b'\xef\xbb\xbf{"model": "m"}',
    "not a number": b'{"model": "m", "temperature": NaN}',
    "infinity": b'{"model": "m", "temperature": -Infinity}',
    "a nul byte": b'{"model": "m\x00"}',
    "open brackets": b"[" * DEEP,
    "deep lists": b'{"model": "m", "x": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects": b'{"x": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b', "model": "m"}',
}


@pytest.mark.parametrize("path", GOOD)
def test_what_is_no_json_is_refused(play, path):
    async def scenario(stage):
        await stage.serve("m")
        for name, body in NO_JSON.items():
            reply = await stage.post(path, body)
            assert (name, reply.status, reply.error["type"]) == (name, 400, "invalid_request_error")
        assert (await stage.post(path, GOOD[path])).status == 200

    play(scenario)


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize(
    "body", [[], ["m"], "m", 1, None, True, {}, {"messages": []}] + [{"model": wrong} for wrong in (None, 1, ["m"], {})]
)
def test_without_a_model_there_is_nothing_to_route_by(play, path, body):
    async def scenario(stage):
        reply = await stage.post(path, body)
        assert (reply.status, reply.error["code"]) == (400, "invalid_value")
        assert "model" in reply.error["message"]
        if isinstance(body, dict):
            assert reply.error["param"] == "model"

    play(scenario)


@pytest.mark.parametrize("path", GOOD)
def test_what_only_the_engine_decodes_is_refused_as_well(play, path):
    """The gateway skips these fields unread."""
    extras = {
        "deep lists": b', "user": ' + b"[" * 2000 + b"]" * 2000,
        "invalid utf-8": b', "user": "\xff"',
        "half a surrogate": b', "user": "\\ud800"',
        "too large a number": b', "seed": 1e999',
        "a huge integer": b', "seed": ' + b"9" * 5000,
    }

    async def scenario(stage):
        await stage.serve("m")
        for name, extra in extras.items():
            reply = await stage.post(path, spliced(path, extra))
            assert (name, reply.status) == (name, 400)
            assert reply.error["message"]

    play(scenario)


@pytest.mark.parametrize("path", GOOD)
def test_of_two_values_for_one_field_the_last_counts_for_everybody(play, path):
    async def scenario(stage):
        await stage.serve("m")
        body = json.dumps(GOOD[path]).encode()
        assert (await stage.post(path, b'{"model": "nonesuch", ' + body[1:])).status == 200
        assert (await stage.post(path, spliced(path, b', "model": "nonesuch"'))).status == 404

    play(scenario)


@pytest.mark.parametrize("headers", [{"content-type": None}, {"content-type": "text/plain"}, {"content-type": b"\xff"}])
@pytest.mark.parametrize("path", GOOD)
def test_the_content_type_is_of_no_importance(play, path, headers):
    async def scenario(stage):
        await stage.serve("m")
        assert (await stage.post(path, GOOD[path], headers=headers)).status == 200

    play(scenario)


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_a_compressed_body_is_refused_in_words(play):
    async def scenario(stage):
        await stage.serve("m")
        for path in ("/v1/chat/completions", "/v1/models"):
            reply = await stage.post(
                path, gzip.compress(json.dumps(CHAT).encode()), headers={"content-encoding": "gzip"}
            )
            assert (reply.status, reply.error["code"]) == (415, "unsupported_content_encoding")
            assert "compressed (gzip)" in reply.error["message"]
        assert (await stage.post("/v1/chat/completions", CHAT, headers={"content-encoding": "identity"})).status == 200

    play(scenario)


def test_a_body_over_the_limit_is_refused_before_it_is_read(play):
    async def scenario(stage):
        await stage.serve("m")
        asked = stage.open("POST", "/v1/embeddings", [b"{"], headers={"content-length": "1001"}, complete=False)
        reply = await asked.reply()
        assert (reply.status, reply.error["code"]) == (413, "payload_too_large")
        assert "1001 bytes" in reply.error["message"]
        assert "limit is 1000" in reply.error["message"]

    play(scenario, max_body_bytes=1000)


@pytest.mark.parametrize("pieces", [[b"x" * 1001], [b"x" * 500, b"x" * 501], [b"x"] * 1001])
@pytest.mark.parametrize("declared", [None, "1", "1000", "no number", "9" * 5000, "-1"])
def test_a_body_over_the_limit_is_refused_whatever_length_was_declared(play, pieces, declared):
    async def scenario(stage):
        await stage.serve("m")
        reply = await stage.post("/v1/embeddings", pieces, headers={"content-length": declared})
        assert (reply.status, reply.error["code"]) == (413, "payload_too_large")

    play(scenario, max_body_bytes=1000)


@pytest.mark.parametrize("declared", [None, "1", "no number", "-5"])
def test_a_body_at_the_limit_is_taken_whatever_length_was_declared(play, declared):
    body = json.dumps({"model": "m", "input": "x"}).encode()

    async def scenario(stage):
        await stage.serve("m")
        pieces = [body[:5], b"", body[5:].ljust(1000 - 5)]
        reply = await stage.post("/v1/embeddings", pieces, headers={"content-length": declared})
        assert reply.status == 200

    play(scenario, max_body_bytes=1000)


def test_bodies_of_the_management_api_have_the_same_limit(play):
    async def scenario(stage):
        for pieces, declared in (([b"{"], "1001"), ([b" " * 600] * 2, None)):
            reply = await stage.post("/v1/models", pieces, headers={"content-length": declared})
            assert (reply.status, reply.error["code"]) == (413, "payload_too_large")

    play(scenario, max_body_bytes=1000)


# --- anything at all --------------------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "assistant", "tool", "robot"])},
        optional={"content": anything | st.text(max_size=20), "tool_calls": anything, "name": anything},
    ),
    max_size=3,
)
FIELDS = {
    "/v1/chat/completions": {
        "messages": messages | anything,
        "stream": anything | st.booleans(),
        "stream_options": anything | st.just({"include_usage": True}),
        "n": anything | st.integers(1, 3),
        "max_tokens": anything | st.integers(1, 10),
        "max_completion_tokens": anything | st.integers(1, 10),
        "temperature": anything | st.floats(0, 2),
        "top_p": anything,
        "stop": anything | st.text(min_size=1, max_size=2),
        "tools": anything,
        "tool_choice": anything,
        "response_format": anything,
        "logit_bias": anything,
        "logprobs": anything,
        "top_logprobs": anything,
        "chat_template_kwargs": anything,
        "reasoning_effort": anything,
        "user": anything,
        "function_call": anything,
    },
    "/v1/completions": {
        "prompt": anything | st.text(max_size=20) | st.lists(st.integers(0, 9)) | st.lists(st.text(max_size=5)),
        "stream": anything | st.booleans(),
        "n": anything | st.integers(1, 3),
        "best_of": anything,
        "max_tokens": anything | st.integers(1, 10),
        "echo": anything,
        "suffix": anything,
        "logprobs": anything,
        "stop": anything,
        "seed": anything,
    },
    "/v1/embeddings": {
        "input": anything | st.text(max_size=20) | st.lists(st.integers(0, 9)) | st.lists(st.text(max_size=5)),
        "encoding_format": anything | st.sampled_from(["float", "base64"]),
        "dimensions": anything | st.integers(1, 64),
        "truncate_prompt_tokens": anything,
        "user": anything,
    },
    "/v1/rerank": {
        "query": anything | st.text(max_size=20),
        "documents": anything | st.lists(st.text(max_size=5)),
        "top_n": anything | st.integers(0, 5),
        "return_documents": anything,
        "return_len": anything,
        "max_chunks_per_doc": anything,
        "kwargs": anything,
    },
}


def bodies(path):
    """Bodies in which some fields are right and others are not, now and then with one that nobody knows."""
    known = st.fixed_dictionaries({}, optional=FIELDS[path])
    unknown = st.dictionaries(st.text(max_size=5), anything, max_size=1)
    return st.builds(lambda known, unknown: GOOD[path] | unknown | known, known, unknown)


@pytest.mark.parametrize("path", GOOD)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_any_body_gets_an_answer_or_a_4xx(play, path, data):
    """One replica serves a batch of bodies at a time, so that the time goes into bodies and not into replicas."""
    batch = data.draw(st.lists(bodies(path), min_size=1, max_size=20))

    async def scenario(stage):
        await stage.serve("m")
        for body in batch:
            reply = await stage.post(path, body)
            if reply.status != 200:
                assert 400 <= reply.status < 500, (body, reply.body)
                assert reply.error["message"], body
            elif reply.headers["content-type"].startswith("text/event-stream"):
                assert reply.events[-1] == "[DONE]"
            else:
                assert isinstance(reply.json, dict)
        assert (await stage.post(path, GOOD[path])).status == 200

    play(scenario)
