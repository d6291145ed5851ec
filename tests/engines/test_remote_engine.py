"""Models that another server serves, against a small endpoint in a process of its own."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from fakes.endpoint.process import Endpoint, endpoint
from hypothesis import given
from hypothesis import strategies as st

from xinfer.api.cards import deployment_info
from xinfer.devices import Grant, Lease
from xinfer.engines.base import Call, Head, Load, parse_options
from xinfer.engines.remote import ENGINE
from xinfer.engines.remote import engine as module
from xinfer.engines.remote.options import RemoteOptions
from xinfer.engines.remote.refusing import refused
from xinfer.errors import (
    ContextOverflow,
    EndpointFailed,
    EndpointTimeout,
    InvalidRequest,
    LoadFailed,
    NotFound,
    PayloadTooLarge,
    TooManyRequests,
    XinferError,
)
from xinfer.ops import Kind, Op
from xinfer.protocols.naming import renamed
from xinfer.spec import Deployment, Format, ModelSpec

KEY = "key-of-the-endpoint"
SPEC = ModelSpec(name="plain", kind=Kind.LLM, source="", format=Format.NONE)
GRANT = Grant(lease=Lease(replica_id="r", generation=1, slices=()), model_uid="mine")


@pytest.fixture(scope="module")
def shared() -> Iterator[Endpoint]:
    with endpoint() as found:
        yield found


@pytest.fixture
def there(shared) -> Endpoint:
    """An endpoint that has seen nothing."""
    shared.forget()
    return shared


def with_model(url: str, use: Callable[[Any], Awaitable[Any]], spec: ModelSpec = SPEC, **options: Any) -> Any:
    async def main() -> Any:
        engine = ENGINE()
        wanted = {"base_url": f"{url}/v1", "api_key": KEY, **options}
        try:
            await engine.load(
                spec, {name: value for name, value in wanted.items() if value != ""}, GRANT, lambda *_: None
            )
            return await use(engine)
        finally:
            await engine.close()

    return asyncio.run(main())


async def idle(_engine: Any) -> None:
    pass


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "mine", "messages": [], **fields}).encode()


def test_a_request_travels_with_the_name_over_there_and_the_key(there):
    async def use(engine):
        assert engine.load_report() == Load()
        head, answer = [frame async for frame in engine.serve(Call("id", Op.CHAT, body(), "mine"))]
        assert head == Head(200, ((b"content-type", b"application/json"),))
        assert json.loads(answer)["choices"][0]["message"]["content"] == "one two three"
        assert engine.failure() == ""

    with_model(there.url, use, headers={"X-Team": "blue"})
    listing, chat = there.seen()["requests"]
    assert listing["path"] == "/v1/models"
    assert chat["path"] == "/v1/chat/completions"
    assert json.loads(chat["body"]) == {"model": "plain", "messages": []}
    assert chat["headers"]["authorization"] == f"Bearer {KEY}"
    assert chat["headers"]["x-team"] == "blue"


def test_the_key_may_come_from_the_environment(there, monkeypatch):
    monkeypatch.setenv("UPSTREAM_KEY", KEY)
    with_model(there.url, idle, api_key="", api_key_env="UPSTREAM_KEY")
    monkeypatch.delenv("UPSTREAM_KEY")
    with pytest.raises(InvalidRequest, match="no variable 'UPSTREAM_KEY'"):
        with_model(there.url, idle, api_key="", api_key_env="UPSTREAM_KEY")


def test_what_is_wrong_shows_at_the_launch(there, monkeypatch):
    monkeypatch.setattr(module, "TRY_AGAIN_S", 0.0)
    with pytest.raises(LoadFailed, match=r"refuses the key that the model was launched with \(status 401\)$"):
        with_model(there.url, idle, api_key="wrong")
    with pytest.raises(LoadFailed, match="has no model 'other'; it has: plain, embed"):
        with_model(there.url, idle, model="other")
    with pytest.raises(LoadFailed, match="cannot be reached"):
        with_model("http://127.0.0.1:1", idle)


def test_an_endpoint_without_a_list_of_models_is_taken_at_its_word(there):
    with_model(there.url, idle, base_url=f"{there.url}/other/v1", model="anything")


def test_nobody_looks_where_nobody_shall(there):
    with_model(there.url, idle, model="other", check=False)
    with_model("http://127.0.0.1:1", idle, check=False)


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (400, InvalidRequest, "^it is 400$"),
        (403, EndpointFailed, "refuses the key"),
        (404, NotFound, "does not have the model or this operation: it is 404"),
        (429, TooManyRequests, "is full: it is 429"),
        (500, EndpointFailed, r"failed \(status 500\): it is 500"),
        (503, EndpointFailed, r"failed \(status 503\)"),
        (307, EndpointFailed, "redirects to https://elsewhere.example/v1; launch the model with that address"),
    ],
)
def test_its_errors_say_whose_they_are(there, status, kind, says):
    async def use(engine):
        with pytest.raises(kind, match=says) as refusal:
            async for _ in engine.serve(Call("id", Op.CHAT, body(), "mine")):
                pass
        assert type(refusal.value) is kind
        assert refusal.value.retry_after == (7 if status == 429 else None)

    with_model(there.url, use, model=str(status), check=False)


@pytest.mark.parametrize(
    ("model", "says"),
    [("page", r"a page of the type text/html; charset=utf-8 \(status 200\)"), ("nothing", r"nothing \(status 200\)")],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_no_answer_is_not_passed_on_as_one(there, model, says, stream):
    async def use(engine):
        with pytest.raises(EndpointFailed, match=f"the endpoint of 'mine' answers with {says}.*check base_url"):
            async for _ in engine.serve(Call("id", Op.CHAT, body(stream=stream), "mine")):
                pass

    with_model(there.url, use, model=model, check=False)


def test_an_endpoint_that_says_nothing(there):
    async def use(engine):
        with pytest.raises(EndpointTimeout, match="the endpoint of 'mine' does not answer"):
            async for _ in engine.serve(Call("id", Op.CHAT, body(), "mine")):
                pass

    with_model(there.url, use, model="silent", check=False, timeout_s=0.05)


def test_leaving_ends_the_work_over_there(there):
    async def use(engine):
        stream = engine.serve(Call("id", Op.CHAT, body(stream=True), "mine"))
        assert isinstance(await anext(stream), Head)
        assert engine.load_report() == Load(running=1)
        await stream.aclose()
        assert engine.load_report() == Load()
        while not (await asyncio.to_thread(there.seen))["aborted"]:
            pass

    with_model(there.url, use, model="endless", check=False)


def test_32_at_once_get_their_own_answers(there):
    async def one(engine: Any) -> bytes:
        frames = [frame async for frame in engine.serve(Call("id", Op.CHAT, body(stream=True), "mine"))]
        return b"".join(frames[1:])

    async def use(engine):
        return await asyncio.gather(*[one(engine) for _ in range(32)])

    (answer,) = set(with_model(there.url, use))
    assert answer.endswith(b"data: [DONE]\n\n")


# --- options ---


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "base_url"),
        ({"base_url": "host:80"}, "it must begin with http:// or https://"),
        ({"base_url": "http://h", "api_key": "a", "api_key_env": "B"}, "only one can be given"),
        ({"base_url": "http://h", "api_key": "a\r\nb: c"}, "characters that no header has"),
        ({"base_url": "http://h:0"}, "base_url: no server has the port 0"),
        ({"base_url": "http://h/v1/chat/completions"}, "base_url: it must end before '/chat/completions'"),
        ({"base_url": "http://h/api/v1/rerank/"}, "base_url: it must end before '/rerank'"),
        ({"base_url": "http://h", "headers": {"a b": "c"}}, "cannot be the name of a header"),
        ({"base_url": "http://h", "headers": {"Content-Length": "3"}}, "'Content-Length' is set for every request"),
        ({"base_url": "http://h", "timeout_s": 0}, "timeout_s"),
        ({"base_url": "http://h", "retries": 3}, "no option 'retries'"),
    ],
)
def test_wrong_options_are_refused_at_the_launch(options, says):
    with pytest.raises(InvalidRequest, match=says) as refusal:
        parse_options(RemoteOptions, options, "remote")
    assert "\r" not in refusal.value.message


@pytest.mark.parametrize(
    ("base_url", "prefix", "chat", "models", "tokenize"),
    [
        ("http://h", "", "/v1/chat/completions", "/v1/models", "/tokenize"),
        ("http://h/v1", "", "/v1/chat/completions", "/v1/models", "/tokenize"),
        ("http://h/api/v1/", "/api", "/v1/chat/completions", "/v1/models", "/tokenize"),
        ("http://h/openai", "/openai", "/chat/completions", "/models", "/tokenize"),
    ],
)
def test_where_things_are(base_url, prefix, chat, models, tokenize):
    options = RemoteOptions(base_url=base_url)
    assert options.origin.prefix == prefix
    assert options.paths[Op.CHAT] == chat
    assert options.paths[Op.TOKENIZE] == tokenize
    assert options.models_path == models


def test_headers_may_replace_the_usual_ones():
    options = RemoteOptions(base_url="http://h", api_key="k", headers={"Authorization": "Basic x"})
    assert options.request_headers(options.key({})) == {"Authorization": "Basic x"}


def test_a_host_of_its_own_is_told_once(there):
    with_model(there.url, idle, headers={"Host": "elsewhere.example"})
    (listing,) = there.seen()["requests"]
    assert listing["headers"]["host"] == "elsewhere.example"


def test_secrets_are_shown_to_nobody():
    options = {"base_url": "http://h", "api_key": "hush", "headers": {"x": "hush"}, "timeout_s": 3}
    shown = deployment_info(Deployment(model_uid="m", spec=SPEC, engine="remote", options=options))
    assert shown["options"] == {"base_url": "http://h", "api_key": "***", "headers": "***", "timeout_s": 3}


# --- the name in the body ---

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values), st.text())
def test_only_the_name_changes(members, name):
    sent = json.dumps({**members, "model": "before"}, ensure_ascii=False).encode("utf-8", "surrogatepass")
    try:
        sent.decode()
    except UnicodeDecodeError:
        return  # such text is in no request
    assert json.loads(renamed(sent, name)) == {**members, "model": name}


def test_bytes_of_other_members_stay_as_they_are():
    sent = (
        b'{"messages":[{"content":"\\u00e9 model"}], "temperature": 1.50, "model" : "a", "seed":12345678901234567890}'
    )
    expected = b'{"messages":[{"content":"\\u00e9 model"}],"temperature":1.50,"model":"b","seed":12345678901234567890}'
    assert renamed(sent, "b") == expected


@pytest.mark.parametrize("sent", [b"", b"[1]", b"{", b"\xff", b'{"a":1}x'])
def test_what_is_no_object_is_refused(sent):
    with pytest.raises(InvalidRequest, match="JSON object"):
        renamed(sent, "b")


# --- errors ---


@given(st.integers(300, 599), st.binary(max_size=200), st.binary(max_size=20))
def test_every_error_is_one_of_ours(status, answer, retry_after):
    error = refused("it", status, answer, {b"retry-after": retry_after})
    assert isinstance(error, XinferError)
    assert 400 <= error.status < 600
    assert error.message


def test_a_context_overflow_stays_one():
    said = json.dumps({"error": {"message": "This model's maximum context length is 10 tokens"}}).encode()
    assert type(refused("it", 400, said, {})) is ContextOverflow


@pytest.mark.parametrize(("status", "kind"), [(402, EndpointFailed), (413, PayloadTooLarge), (504, EndpointTimeout)])
def test_a_status_that_has_a_meaning_keeps_it(status, kind):
    error = refused("it", status, b'{"error": {"message": "so it says"}}', {})
    assert type(error) is kind
    assert error.message.endswith(": so it says")


def test_a_key_that_an_endpoint_repeats_goes_no_further():
    assert "sk-123" not in refused("it", 401, b'{"error": {"message": "wrong key: sk-123"}}', {}).message
