"""The official client, and the habits of Xinference's, against the echo engine behind two gateways."""

import asyncio
import base64
import concurrent.futures
import json
import struct

import openai
import pytest

TEXT = "One request is one message, and nothing of it gets lost."
HEAVY = "so many words that they take a while " * 8


def user(text=TEXT):
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def server(tmp_path_factory, open_site):
    with open_site(tmp_path_factory.mktemp("openai"), drain_timeout_s=20) as site:
        site.local("--gateways", "2", "--model", "echo", "--model", "echo-embed", "--model", "echo-rerank")
        for uid in ("echo", "echo-embed", "echo-rerank"):
            site.until_ready_replicas(uid, 1)
        yield site


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


# Chat.


def test_chat(client):
    answer = client.chat.completions.create(model="echo", messages=user(), temperature=0)
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", TEXT, "stop")
    assert (answer.object, answer.model) == ("chat.completion", "echo")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (11, 11, 22)


def test_chat_with_choices_limits_and_stop_strings(client):
    two = client.chat.completions.create(model="echo", messages=user(), n=2, max_completion_tokens=3)
    assert [(c.index, c.message.content, c.finish_reason) for c in two.choices] == [
        (0, "One request is", "length"),
        (1, "One request is", "length"),
    ]
    stopped = client.chat.completions.create(model="echo", messages=user(), stop=["never", " message"])
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("One request is one", "stop")


def test_chat_streams(client):
    stream = client.chat.completions.create(
        model="echo", messages=user(), stream=True, stream_options={"include_usage": True}
    )
    *chunks, usage = stream
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"
    assert len({chunk.id for chunk in (*chunks, usage)}) == 1
    assert (usage.choices, usage.usage.total_tokens) == ([], 22)


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/chat/completions", {"messages": user("a b")}), ("/v1/completions", {"prompt": "a b"})]
)
def test_every_stream_says_that_it_is_done(server, path, body):
    answer = server.call("POST", path, json={"model": "echo", "stream": True, **body}, headers={"x-request-id": "42"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-request-id"] == "42"
    *events, done, nothing = answer.text.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    assert all(json.loads(event.removeprefix("data: "))["id"].endswith("-42") for event in events)


def test_the_async_client_may_ask_for_many_at_once(server):
    async def ask_all() -> list[str | None]:
        async with server.async_client() as client:
            answers = [client.chat.completions.create(model="echo", messages=user(f"number {n}")) for n in range(32)]
            return [answer.choices[0].message.content for answer in await asyncio.gather(*answers)]

    assert asyncio.run(ask_all()) == [f"number {n}" for n in range(32)]


# Completions, embeddings, rerank.


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("a b c", ["a b c"]),
        (["a b", "c"], ["a b", "c"]),
        ([7, 8, 9], ["7 8 9"]),
        ([[7, 8], [9]], ["7 8", "9"]),
    ],
)
def test_completions_take_prompts_of_every_shape(client, prompt, texts):
    answer = client.completions.create(model="echo", prompt=prompt)
    assert [choice.text for choice in answer.choices] == texts
    pieces = [""] * len(texts)
    for chunk in client.completions.create(model="echo", prompt=prompt, stream=True):
        pieces[chunk.choices[0].index] += chunk.choices[0].text
    assert pieces == texts


def test_embeddings_as_numbers_and_as_base64_are_the_same(server, client):
    by_default = client.embeddings.create(model="echo-embed", input=["a b", "b a", "c"])
    vectors = [item.embedding for item in by_default.data]
    assert [item.index for item in by_default.data] == [0, 1, 2]
    assert by_default.usage.prompt_tokens == 5
    assert vectors[0] == vectors[1] != vectors[2]
    numbers = client.embeddings.create(model="echo-embed", input="c", encoding_format="float").data[0].embedding
    assert numbers == pytest.approx(vectors[2])
    raw = server.call("POST", "/v1/embeddings", json={"model": "echo-embed", "input": "c", "encoding_format": "base64"})
    packed = base64.b64decode(raw.json()["data"][0]["embedding"])
    assert struct.unpack(f"<{len(numbers)}f", packed) == pytest.approx(numbers)


def test_embeddings_of_tokens(client):
    assert len(client.embeddings.create(model="echo-embed", input=[1, 2, 3]).data) == 1
    assert len(client.embeddings.create(model="echo-embed", input=[[1, 2], [3]]).data) == 2


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
def test_rerank(server, path):
    body = {"model": "echo-rerank", "query": "red apples", "documents": ["blue sky", "apples are red"], "top_n": 1}
    [best] = server.call("POST", path, json=body).raise_for_status().json()["results"]
    assert (best["index"], best["document"]) == (1, {"text": "apples are red"})


# Errors.


def test_models_are_listed_and_described(server, client):
    assert [model.id for model in client.models.list()] == ["echo", "echo-embed", "echo-rerank"]
    assert client.models.retrieve("echo").owned_by == "xinfer"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.models.retrieve("unheard-of")
    assert unknown.value.code == "model_not_found"


def test_an_unknown_model_is_not_found_and_the_others_stay_private(client):
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="unheard-of", messages=user())
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    assert "echo" not in unknown.value.message


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "nobody", "content": "?"}]}, "messages[0].role"),
        ({"temperature": 3}, "temperature"),
        ({"n": "two"}, "n"),
        ({"wings": 2}, "wings"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"messages": user("word " * 40000)}, "messages"),
        ({"model": "echo-embed"}, "model"),
        ({"model": 5}, "model"),
    ],
)
def test_a_wrong_request_names_what_is_wrong(server, change, param):
    answer = server.call("POST", "/v1/chat/completions", json={"model": "echo", "messages": user(), **change})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(client):
    with pytest.raises(openai.BadRequestError) as overflow:
        client.chat.completions.create(model="echo", messages=user("word" + " word" * 39999))
    assert overflow.value.code == "context_length_exceeded"
    assert "32768" in overflow.value.message
    assert "40000" in overflow.value.message


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"{}", b'{"model": "echo"'])
def test_a_body_that_makes_no_sense_is_refused(server, body):
    answer = server.call("POST", "/v1/chat/completions", content=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models"])
@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
def test_a_body_beyond_the_limit_is_refused(server, path, chunked):
    huge = b"x" * (33 * 1024 * 1024)
    content = (huge[at : at + 65536] for at in range(0, len(huge), 65536)) if chunked else huge
    headers = {"content-type": "application/json"}
    answer = server.call("POST", path, content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large")
    assert server.get("/health")["status"] == "ok"


# Launching.


def test_a_model_that_still_loads_asks_for_patience_and_can_be_cancelled(server, client, wait):
    server.launch("echo", model_uid="late", load_delay_s=600, wait_ready=False)
    wait(lambda: server.get("/v1/models/late/progress")["stage"] == "loading", "it loads")
    with pytest.raises(openai.APIStatusError) as not_yet:
        client.chat.completions.create(model="late", messages=user())
    assert (not_yet.value.status_code, not_yet.value.code) == (503, "not_ready")
    assert int(not_yet.value.response.headers["retry-after"]) > 0
    assert server.get("/v1/models/late")["status"] == "loading"

    server.call("POST", "/v1/models/late/cancel").raise_for_status()
    assert server.call("GET", "/v1/models/late").status_code == 404
    wait(lambda: "late" not in server.running_models(), "its process is gone")


def test_a_launch_that_is_cancelled_tells_who_waits_for_it(server, wait):
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(
            server.call, "POST", "/v1/models", json={"model_name": "echo", "model_uid": "never", "load_delay_s": 600}
        )
        wait(lambda: server.call("GET", "/v1/models/never/progress").is_success, "it is launched")
        server.call("POST", "/v1/models/never/cancel").raise_for_status()
        answer = waiting.result()
    assert (answer.status_code, answer.json()["error"]["code"]) == (499, "launch_cancelled")


def test_a_failing_launch_gives_the_reason_of_the_engine_and_can_be_repeated(server, client, wait):
    body = {"model_name": "echo", "model_uid": "broken"}
    failed = server.call("POST", "/v1/models", json={**body, "fail_load": "the weights are made of wood"})
    assert (failed.status_code, failed.json()["error"]["code"]) == (500, "load_failed")
    assert "the weights are made of wood" in failed.json()["error"]["message"]
    assert "made of wood" in server.get("/v1/models/broken/progress")["reason"]
    wait(lambda: server.get("/v1/models/broken")["status"] == "failed", "the gateway knows")
    with pytest.raises(openai.APIStatusError, match="made of wood"):
        client.chat.completions.create(model="broken", messages=user())

    server.launch(**body)
    assert client.chat.completions.create(model="broken", messages=user()).choices[0].message.content == TEXT
    server.terminate("broken")


def test_an_option_that_only_the_engine_knows_to_be_wrong_is_the_fault_of_the_launch(server):
    refused = server.call("POST", "/v1/models", json={"model_name": "echo", "model_uid": "no", "refuse_load": "speed"})
    error = refused.json()["error"]
    assert (refused.status_code, error["type"], error["param"]) == (400, "invalid_request_error", "speed")
    assert "echo was told to refuse this" in error["message"]
    server.terminate("no")


def test_a_crash_while_loading_is_reported(server):
    crashed = server.call("POST", "/v1/models", json={"model_name": "echo", "model_uid": "crash", "exit_on_load": 3})
    assert crashed.status_code == 500
    assert "exited with status 3" in crashed.json()["error"]["message"]
    server.terminate("crash")


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({}, 400, "model_name"),
        ({"model_name": "echo", "replica": "many"}, 400, "replica"),
        ({"model_name": "echo", "wings": 2}, 400, "wings"),
        ({"model_name": "unheard-of"}, 400, "unheard-of"),
        ({"model_name": "echo", "model_uid": "echo"}, 409, "echo"),
        ({"model_name": "echo", "model_uid": "big", "memory_mib": 1 << 30}, 409, "MiB"),
    ],
)
def test_a_launch_that_cannot_be_is_refused_at_once(server, body, status, says):
    refused = server.call("POST", "/v1/models", json=body)
    assert refused.status_code == status
    assert says in refused.json()["error"]["message"]


def test_a_launch_as_xinferences_client_sends_it(server, client):
    unset = ["peft_model_config", "request_limits", "worker_ip", "gpu_idx", "replica_config", "model_path", "envs"]
    unset += ["enable_thinking", "enable_virtual_env", "virtual_env_packages", "virtual_env_find_links"]
    given = {"model_uid": "theirs", "model_name": "echo", "model_engine": "Echo", "model_type": "LLM", "n_gpu": "auto"}
    server.launch(**given, replica=1, n_worker=1, **dict.fromkeys(unset))
    assert client.chat.completions.create(model="theirs", messages=user()).choices[0].message.content == TEXT
    [instance] = server.call("GET", "/v1/models/instances", params={"model_uid": "theirs"}).json()
    assert (instance["status"], instance["replica"], instance["model_ability"]) == ("READY", 1, ["generate", "chat"])
    server.terminate("theirs")


def test_a_launch_and_its_end_hold_for_every_gateway(server):
    """Each client opens a connection of its own, and the kernel spreads those over the gateways."""
    for turn in range(6):
        uid = f"brief-{turn}"
        server.launch("echo", model_uid=uid)
        for _ in range(4):
            with server.client() as client:
                assert client.chat.completions.create(model=uid, messages=user()).choices[0].message.content == TEXT
        server.call("DELETE", f"/v1/models/{uid}").raise_for_status()
        for _ in range(4):
            with server.client() as client, pytest.raises(openai.NotFoundError):
                client.chat.completions.create(model=uid, messages=user())


# What changes while requests run.


def stream_in(thread, client, uid):
    """A stream that is read to its end by a thread."""
    stream = client.chat.completions.create(model=uid, messages=user(HEAVY), stream=True)
    return thread.submit(lambda: "".join(chunk.choices[0].delta.content or "" for chunk in stream))


def test_replicas_come_and_go_while_streams_run(server, client, wait):
    server.launch("echo", model_uid="elastic", rate=50)
    with concurrent.futures.ThreadPoolExecutor(16) as thread:
        streams = [stream_in(thread, client, "elastic") for _ in range(4)]
        server.call("POST", "/v1/models/elastic/replicas", json={"replica": 2}).raise_for_status()
        pids = server.until_ready_replicas("elastic", 3)
        streams += [stream_in(thread, client, "elastic") for _ in range(4)]
        for replica_id in ("0", "elastic-1"):
            server.call("DELETE", f"/v1/models/elastic/replicas/{replica_id}").raise_for_status()
        streams += [stream_in(thread, client, "elastic") for _ in range(4)]
        assert [stream.result() for stream in streams] == [HEAVY] * 12
    left = server.until_ready_replicas("elastic", 1)
    assert left == {"elastic-2": pids["elastic-2"]}
    last = server.call("DELETE", "/v1/models/elastic/replicas/elastic-2")
    assert (last.status_code, last.json()["error"]["code"]) == (409, "conflict")
    server.terminate("elastic")


def test_a_terminated_model_finishes_what_it_has_begun(server, client, wait):
    server.launch("echo", model_uid="leaving", rate=50)
    with concurrent.futures.ThreadPoolExecutor(8) as thread:
        streams = [stream_in(thread, client, "leaving") for _ in range(8)]
        server.call("DELETE", "/v1/models/leaving").raise_for_status()
        assert server.call("GET", "/v1/models/leaving").status_code == 404
        assert [stream.result() for stream in streams] == [HEAVY] * 8
    wait(lambda: "leaving" not in server.running_models(), "its process is gone")


def test_a_second_gateway_serves_while_the_first_is_replaced(server, wait):
    first, second = server.gateways()
    first.kill()
    with server.client() as client:
        for _ in range(8):
            assert client.chat.completions.create(model="echo", messages=user()).choices[0].message.content == TEXT
    wait(lambda: len(server.gateways()) == 2, "there are two again")
    assert second.is_running()
