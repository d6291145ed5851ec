import pytest

from xinfer import errors
from xinfer.client import Client, Delta, Unreachable
from xinfer.client.connection import UnknownAnswer
from xinfer.processes import free_port


@pytest.fixture
def client(api):
    with Client(api.url) as client:
        yield client


def test_models_are_read_with_what_is_known_of_them(api, answer, client):
    card = {"id": "m", "object": "model", "model_type": "LLM", "context_length": 512, "new_field": 1}
    api.on("GET", "/v1/models", answer(body={"object": "list", "data": [card]}))
    [model] = client.models()
    assert (model.id, model.model_type, model.context_length, model.status) == ("m", "LLM", 512, "")


def test_a_launch_sends_unknown_keywords_along(api, answer, client):
    api.on("POST", "/v1/models?wait_ready=false", answer(body={"model_uid": "m-1"}))
    assert client.launch("m", replica=2, max_batch=4) == "m-1"
    assert api.asked[0].body == {"model_name": "m", "replica": 2, "max_batch": 4}


def test_follow_ends_with_the_done_progress(api, answer, client):
    api.on(
        "GET",
        "/v1/models/m/progress",
        answer(body={"progress": 0.2, "stage": "loading"}),
        answer(body={"progress": 1.0, "stage": "completed", "done": True}),
    )
    assert [step.stage for step in client.follow("m")] == ["loading", "completed"]


def test_a_uid_with_a_slash_stays_one_uid(api, answer, client):
    api.on("DELETE", "/v1/models/Qwen%2FQwen3-0.6B", answer(body={"deleted": True}))
    client.terminate("Qwen/Qwen3-0.6B")


def test_replicas_are_added_and_removed(api, answer, client):
    api.on("POST", "/v1/models/m/replicas", answer(body={}))
    api.on("DELETE", "/v1/models/m/replicas/m-1", answer(body={"remaining_replicas": 1}))
    client.add_replicas("m", 2)
    client.remove_replica("m", "m-1")
    assert [asked.body for asked in api.asked] == [{"replica": 2}, None]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("model_not_found", errors.UnknownModel),
        ("insufficient_capacity", errors.NoCapacity),
        ("load_failed", errors.LoadFailed),
        ("not_ready", errors.NotReady),
        ("a_code_of_a_later_version", errors.XinferError),
    ],
)
def test_an_error_arrives_as_the_class_it_was_raised_as(api, answer, client, code, kind):
    body = {"error": {"message": "because", "type": "t", "param": "model", "code": code}}
    api.on("GET", "/v1/models", answer(kind.status, body, {"retry-after": "7"}))
    with pytest.raises(errors.XinferError, match="because") as caught:
        client.models()
    assert type(caught.value) is kind
    assert (caught.value.param, caught.value.retry_after) == ("model", 7)


def test_nothing_at_the_endpoint_is_said_plainly():
    url = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    with Client(url) as client, pytest.raises(Unreachable, match=f"nothing answers at {url}"):
        client.models()


@pytest.mark.parametrize("url", ["127.0.0.1:9997", "ftp://host", "http://", "http://host:port"])
def test_an_endpoint_that_is_no_url_is_refused(url):
    with pytest.raises(errors.InvalidRequest, match="URL"):
        Client(url)


def test_another_kind_of_server_is_named_as_such(client, api, answer):
    with pytest.raises(UnknownAnswer, match="is it an xinfer server"):
        client.cluster()
    api.on("GET", "/v1/models", answer(body=["something else"]))
    with pytest.raises(UnknownAnswer):
        client.models()


def test_a_proxy_for_the_internet_is_not_asked_for_this_machine(api, answer, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    api.on("GET", "/v1/models", answer(body={"data": []}))
    with Client(api.url) as client:
        assert client.models() == []


def test_the_key_is_sent_as_a_bearer_token(api, answer):
    api.on("GET", "/v1/models", answer(body={"data": []}))
    with Client(api.url, "secret") as client:
        client.models()
    assert api.asked[0].headers["authorization"] == "Bearer secret"


def chunk(text):
    return f'{{"choices": [{{"delta": {{"content": "{text}"}}}}]}}'


def test_chat_streams_deltas_until_done(api, answer, client):
    last = '{"choices": [{"delta": {}, "finish_reason": "stop"}]}'
    api.on("POST", "/v1/chat/completions", answer(events=(chunk("Hel"), chunk("lo"), last, "[DONE]")))
    deltas = list(client.chat("m", [{"role": "user", "content": "Hi"}], temperature=0))
    assert deltas == [Delta(text="Hel"), Delta(text="lo"), Delta(finish_reason="stop")]
    assert api.asked[0].body["temperature"] == 0
    assert api.asked[0].body["stream"] is True


def test_an_error_in_the_middle_of_a_stream_is_raised(api, answer, client):
    broken = '{"error": {"message": "the replica died", "type": "t", "param": null, "code": "replica_lost"}}'
    api.on("POST", "/v1/chat/completions", answer(events=(chunk("Hel"), broken)))
    stream = client.chat("m", [])
    assert next(stream).text == "Hel"
    with pytest.raises(errors.ReplicaLost, match="the replica died"):
        next(stream)


def test_closing_a_stream_lets_the_server_know(api, answer, client):
    api.on("POST", "/v1/completions", answer(events=('{"choices": [{"text": "x"}]}',), endless=True))
    stream = client.complete("m", "x")
    assert next(stream).text == "x"
    stream.close()
    assert api.client_gone.wait(10)
