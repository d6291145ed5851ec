"""Calls to an application in this process, and what its errors become."""

import asyncio
import json

import pytest

from xinfer.engines.base import Call, Head
from xinfer.engines.passthrough import PATHS, AsgiCaller, refusal
from xinfer.engines.passthrough.asgi import MAX_WAITING
from xinfer.errors import ContextOverflow, EngineFailed, InvalidRequest, NotFound, NotReady, TooManyRequests
from xinfer.ops import Op

CALL = Call("id-1", Op.CHAT, b'{"model": "m"}', "m", (("traceparent", "00-ab-cd-01"),))
SSE = [(b"content-type", b"text/event-stream"), (b"server", b"other")]


def start(status=200, headers=SSE):
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data=b"", more=True):
    return {"type": "http.response.body", "body": data, "more_body": more}


async def collect(app, call=CALL):
    return [frame async for frame in AsgiCaller(app, PATHS).serve(call)]


def test_the_application_gets_the_request_and_its_chunks_come_back():
    seen = {}

    async def app(scope, receive, send):
        seen.update(scope, request=await receive())
        await send(start())
        for number in range(3):
            await send(body(f"data: {number}\n\n".encode()))
            await asyncio.sleep(0)
        await send(body(more=False))

    head, *chunks = asyncio.run(collect(app))
    assert head == Head(200, ((b"content-type", b"text/event-stream"),))
    assert b"".join(chunks) == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert (seen["path"], seen["method"], seen["request"]["body"]) == ("/v1/chat/completions", "POST", CALL.body)
    assert {(b"x-request-id", b"id-1"), (b"traceparent", b"00-ab-cd-01")} <= set(seen["headers"])


def test_chunks_that_wait_are_sent_as_one():
    async def app(scope, receive, send):
        await send(start())
        for _ in range(10):
            await send(body(b"x"))
        await send(body(more=False))

    assert asyncio.run(collect(app))[1:] == [b"x" * 10]


def test_listening_for_the_client_and_giving_up_does_not_end_the_answer():
    async def app(scope, receive, send):
        await receive()
        listening = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        listening.cancel()
        await send(start())
        await asyncio.gather(listening, return_exceptions=True)
        await send(body(b"all of it", more=False))

    assert asyncio.run(collect(app))[1:] == [b"all of it"]


def test_an_answer_that_nobody_wants_any_more_is_cancelled():
    said = []
    ended = asyncio.Event()

    async def app(scope, receive, send):
        await receive()
        try:
            await send(start())
            while True:
                await send(body(b"on and on"))
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            said.append((await receive())["type"])
            ended.set()
            raise

    async def main():
        caller = AsgiCaller(app, PATHS)
        frames = caller.serve(CALL)
        assert isinstance(await anext(frames), Head)
        assert await anext(frames)
        assert caller.running == 1
        await frames.aclose()
        await ended.wait()
        assert caller.running == 0

    asyncio.run(main())
    assert said == ["http.disconnect"]


def test_the_application_waits_for_a_client_that_does_not_read():
    sent = 0

    async def app(scope, receive, send):
        nonlocal sent
        await send(start())
        while True:
            await send(body(b"x"))
            sent += 1

    async def main():
        frames = AsgiCaller(app, PATHS).serve(CALL)
        await anext(frames)
        for _ in range(10):
            await asyncio.sleep(0)
        assert sent <= 2 * (MAX_WAITING + 1)  # what was taken for the first frame, and what waits since
        total = 0
        while total <= 2 * MAX_WAITING:
            total += len(await anext(frames))
        await frames.aclose()

    asyncio.run(main())


def test_what_was_sent_is_read_though_the_application_gave_up_waiting_for_the_client():
    got = []

    async def main():
        read, given_up = asyncio.Event(), asyncio.Event()

        async def app(scope, receive, send):
            await send(start())
            await send(body(b"x"))
            await read.wait()
            for _ in range(MAX_WAITING):
                await send(body(b"x"))
            waiting = asyncio.ensure_future(send(body(b"x")))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            given_up.set()
            raise RuntimeError("nobody reads")

        frames = AsgiCaller(app, PATHS).serve(CALL)
        assert [type(await anext(frames)) for _ in range(2)] == [Head, bytes]
        read.set()
        await given_up.wait()
        async for frame in frames:
            got.append(frame)  # noqa: PERF401  what came before the error counts too

    with pytest.raises(EngineFailed):
        asyncio.run(main())
    assert b"".join(got) == b"x" * (MAX_WAITING + 1)


def test_an_error_answer_becomes_an_error_of_ours():
    async def app(scope, receive, send):
        await send(start(400, [(b"content-type", b"application/json")]))
        await send(body(b'{"error": {"message": "no such', more=True))
        await send(body(b' thing", "type": "BadRequestError", "param": "n", "code": 400}}', more=False))

    with pytest.raises(InvalidRequest, match="no such thing") as raised:
        asyncio.run(collect(app))
    assert raised.value.param == "n"


@pytest.mark.parametrize(
    ("event", "kind", "message"),
    [
        (b'data: {"error": {"message": "bad", "param": "logprobs", "code": 400}}', InvalidRequest, "bad"),
        (b'data: {"error":{"message":"the core died","code":500}}', EngineFailed, "the core died"),
        (b'data: {"error":{"message":"a word","code":"invalid"}}', EngineFailed, "a word"),
        (b'data: {"error":{"message":"a number","code":1}}', EngineFailed, "a number"),
    ],
)
def test_a_stream_that_begins_with_an_error_is_an_error_answer(event, kind, message):
    async def app(scope, receive, send):
        await send(start())
        await send(body(event + b"\n\n"))
        await send(body(b"data: [DONE]\n\n", more=False))

    with pytest.raises(kind, match=message):
        asyncio.run(collect(app))


def test_an_error_after_something_was_said_is_passed_on():
    events = [b'data: {"choices": []}\n\n', b'data: {"error": {"message": "bad", "code": 400}}\n\n']

    async def app(scope, receive, send):
        await send(start())
        for event in events:
            await send(body(event))
            await asyncio.sleep(0)
        await send(body(more=False))

    assert asyncio.run(collect(app))[1:] == events


def test_what_is_answered_to_an_operation_is_edited():
    async def app(scope, receive, send):
        await send(start())
        await send(body(b"one"))
        await asyncio.sleep(0)
        await send(body(b"two", more=False))

    async def main(op):
        caller = AsgiCaller(app, PATHS, {Op.CHAT: bytes.upper})
        return [frame async for frame in caller.serve(Call("id-1", op, b"{}", "m"))][1:]

    assert asyncio.run(main(Op.CHAT)) == [b"ONE", b"TWO"]
    assert asyncio.run(main(Op.COMPLETION)) == [b"one", b"two"]


@pytest.mark.parametrize("begun", [False, True])
def test_an_application_that_raises_fails_the_call(begun):
    async def app(scope, receive, send):
        if begun:
            await send(start())
            await send(body(b"one"))
            await asyncio.sleep(0)
        raise RuntimeError("no answer is possible any more") from ValueError("it broke")

    frames = []

    async def main():
        async for frame in AsgiCaller(app, PATHS).serve(CALL):
            frames.append(frame)  # noqa: PERF401  what came before the error counts too

    with pytest.raises(EngineFailed, match="it broke" if begun else "no answer"):
        asyncio.run(main())
    assert frames == ([Head(200, ((b"content-type", b"text/event-stream"),)), b"one"] if begun else [])


@pytest.mark.parametrize(
    ("status", "answer", "kind", "message"),
    [
        (400, {"error": {"message": "bad", "param": "top_p"}}, InvalidRequest, "bad"),
        (400, {"error": {"message": "This model's maximum context length is 8"}}, ContextOverflow, "maximum context"),
        (400, {"error": {"message": "of another type", "param": "body.n"}}, InvalidRequest, "of another type"),
        (422, {"detail": [{"msg": "field required"}]}, InvalidRequest, "field required"),
        (404, {"object": "error", "message": "no adapter"}, NotFound, "no adapter"),
        (429, {"error": {"message": "slow down"}}, TooManyRequests, "slow down"),
        (503, {"error": {"message": "asleep"}}, NotReady, "asleep"),
        (500, {"error": {"message": "boom"}}, EngineFailed, "boom"),
    ],
)
def test_what_other_servers_say_keeps_its_meaning(status, answer, kind, message):
    error = refusal(status, json.dumps(answer).encode())
    assert type(error) is kind
    assert message in error.message
    assert error.param in (None, "n", "top_p")


@pytest.mark.parametrize("answer", [b"", b"<html>gateway</html>", b"\xff\xfe"])
def test_an_answer_that_is_no_json_is_shown_as_it_is(answer):
    error = refusal(502, answer)
    assert type(error) is EngineFailed
    assert error.message
