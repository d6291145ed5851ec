"""One contract for every engine that serves language models: one demo model, the same questions, real processes."""

import asyncio
import json

import openai
import pytest
from e2e.demo_chat import (
    CONTEXT,
    ask,
    calls_of,
    fields_of,
    golden,
    golden_texts,
    is_golden,
    json_form,
    longest,
    read,
    read_async,
    story,
)
from e2e.engine_cases import Case, present, share_environments

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
SIGNS = "你好、鹅 🪿👩🏽‍🚀 grüßt"
"""Characters of one to four bytes, and some that are several characters in one."""


@pytest.fixture(scope="module", params=present(), ids=lambda case: case.name)
def case(request) -> Case:
    return request.param


@pytest.fixture(scope="module")
def server(tmp_path_factory, open_site, case):
    root = tmp_path_factory.mktemp("contract")
    share_environments(root)
    with open_site(root) as site:
        site.local()
        case.start(site)
        yield site


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


# --- what the model is known to say ---


def test_golden_answers_32_at_once_streamed_and_whole(server):
    entries = golden()

    async def ask_all() -> list[bool]:
        gate = asyncio.Semaphore(32)

        async def one(number, entry) -> bool:
            async with gate:
                if number % 2 or "tools" in entry:
                    answer = await client.chat.completions.create(**fields_of(entry))
                    counted = answer.usage.prompt_tokens == entry["prompt_tokens"]
                    return counted and is_golden(entry, answer.choices[0].message)
                streamed = await read_async(await client.chat.completions.create(**fields_of(entry), stream=True))
                return streamed.content.strip() == entry["answer"].strip()

        async with server.async_client() as client:
            return await asyncio.gather(*[one(number, entry) for number, entry in enumerate(entries)])

    right = asyncio.run(ask_all())
    assert [entry["messages"] for entry, good in zip(entries, right, strict=True) if not good] == []


def test_plain_text_is_continued_whole_and_streamed(client):
    for entry in golden_texts():
        fields = {"model": "demo", "prompt": entry["prompt"], "temperature": 0, "max_tokens": 200}
        assert client.completions.create(**fields).choices[0].text == entry["answer"]
        assert read(client.completions.create(**fields, stream=True)).content == entry["answer"]


def test_a_stream_says_what_the_whole_answer_says(client):
    whole = client.chat.completions.create(**fields_of(longest()))
    streamed = read(client.chat.completions.create(**fields_of(longest()), stream=True))
    assert streamed.content == whole.choices[0].message.content
    assert streamed.reason == whole.choices[0].finish_reason == "stop"


def test_characters_that_are_several_tokens_arrive_whole(client):
    fields = ask("Hello!", max_tokens=200, response_format=json_form({"type": "string", "enum": [SIGNS]}))
    assert json.loads(client.chat.completions.create(**fields).choices[0].message.content) == SIGNS
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(**fields, stream=True)
        if chunk.choices
    ]
    assert json.loads("".join(pieces)) == SIGNS
    assert len(pieces) > 5
    assert not [piece for piece in pieces if "\N{REPLACEMENT CHARACTER}" in piece]


# --- where an answer ends ---


@pytest.mark.parametrize("words", [(5, 8), (0, 1)], ids=["across several tokens", "at once"])
def test_a_stop_string_ends_the_answer_before_it(client, words):
    entry = longest()
    stop = " ".join(entry["answer"].split()[slice(*words)])
    fields = fields_of(entry, stop=["never said", stop])
    answer = client.chat.completions.create(**fields).choices[0]
    assert (answer.message.content or "") == entry["answer"].partition(stop)[0]
    assert answer.finish_reason == "stop"
    streamed = read(client.chat.completions.create(**fields, stream=True))
    assert (streamed.content, streamed.reason) == (entry["answer"].partition(stop)[0], "stop")


def test_max_tokens_cuts_the_answer(client):
    answer = client.chat.completions.create(**fields_of(longest(), max_tokens=7))
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 7
    assert longest()["answer"].startswith(answer.choices[0].message.content)
    streamed = read(client.chat.completions.create(**fields_of(longest(), max_tokens=7), stream=True))
    assert (streamed.content, streamed.reason) == (answer.choices[0].message.content, "length")


def test_a_prompt_beyond_the_context_is_refused_with_numbers(client):
    fields = ask("one two three " * 3000)
    for more in ({}, {"stream": True}):
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(**fields, **more)
        assert refused.value.code == "context_length_exceeded"
        assert str(CONTEXT) in refused.value.message
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="demo", prompt="one two three " * 3000)
    assert refused.value.code == "context_length_exceeded"


# --- tools and forms ---


def test_a_tool_call_whole_and_streamed(client):
    entry = next(entry for entry in golden() if entry.get("tool_calls"))
    whole = client.chat.completions.create(**fields_of(entry))
    assert calls_of(whole.choices[0].message) == entry["tool_calls"]
    assert whole.choices[0].finish_reason == "tool_calls"
    streamed = read(client.chat.completions.create(**fields_of(entry), stream=True))
    assert streamed.calls == entry["tool_calls"]
    assert streamed.reason == "tool_calls"


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}], ids=["required", "named"]
)
def test_a_tool_that_must_be_called_is_called(client, choice):
    fields = ask("Hello!", tools=[WEATHER], tool_choice=choice, max_tokens=200)
    calls = calls_of(client.chat.completions.create(**fields).choices[0].message)
    assert calls
    assert all((call["name"], set(call["arguments"])) == ("weather", {"city"}) for call in calls)
    assert read(client.chat.completions.create(**fields, stream=True)).calls == calls


def test_a_tool_that_must_not_be_called_is_not_called(client):
    entry = next(entry for entry in golden() if entry.get("tool_calls"))
    answer = client.chat.completions.create(**fields_of(entry), tool_choice="none", max_tokens=64)
    assert not answer.choices[0].message.tool_calls


@pytest.mark.parametrize("question", ["Tell me about a person.", "Hello!", "What is 2 + 2?"])
def test_a_json_schema_holds(client, question):
    fields = ask(question, max_tokens=200, response_format=json_form(PERSON))
    text = client.chat.completions.create(**fields).choices[0].message.content
    person = json.loads(text)
    assert set(person) == {"name", "age"}
    assert isinstance(person["name"], str)
    assert 0 <= person["age"] <= 120
    assert read(client.chat.completions.create(**fields, stream=True)).content == text


# --- what is told about an answer ---


def test_log_probabilities_of_the_tokens(client):
    fields = ask("Hello!", logprobs=True, top_logprobs=3)
    answer = client.chat.completions.create(**fields)
    tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens).startswith(answer.choices[0].message.content)
    for token in tokens:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert max(top.logprob for top in token.top_logprobs) == pytest.approx(token.logprob, abs=1e-3)  # greedy
    streamed = read(client.chat.completions.create(**fields, stream=True)).tokens
    assert [token.token for token in streamed] == [token.token for token in tokens]
    assert [token.logprob for token in streamed] == pytest.approx([token.logprob for token in tokens], abs=1e-2)


def test_log_probabilities_of_a_completion(client):
    entry = golden_texts()[0]
    fields = {"model": "demo", "prompt": entry["prompt"], "temperature": 0, "max_tokens": 8, "logprobs": 2}
    found = client.completions.create(**fields).choices[0].logprobs
    assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == 8
    assert entry["answer"].startswith("".join(found.tokens))


def test_usage_counts_what_was_read_written_and_known(client):
    fields = fields_of(longest())
    whole = client.chat.completions.create(**fields).usage
    assert whole.prompt_tokens == longest()["prompt_tokens"]
    assert whole.completion_tokens in (longest()["answer_tokens"], longest()["answer_tokens"] + 1)  # with its end
    assert whole.total_tokens == whole.prompt_tokens + whole.completion_tokens
    silent = read(client.chat.completions.create(**fields, stream=True))
    assert silent.usages == 0
    told = read(client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}))
    assert told.usages == 1
    assert (told.usage.prompt_tokens, told.usage.completion_tokens) == (whole.prompt_tokens, whole.completion_tokens)


def test_several_choices_of_one_prompt(client):
    fields = {**story(60), "temperature": 2.0}  # longer than the story that it knows
    # It knows the story so well that every other answer is just that, even so hot.
    answers = client.chat.completions.create(**fields, n=16)
    assert sorted(choice.index for choice in answers.choices) == list(range(16))
    assert len({choice.message.content for choice in answers.choices}) > 1
    assert answers.usage.completion_tokens == 16 * 60
    streamed = [
        choice for chunk in client.chat.completions.create(**fields, n=3, stream=True) for choice in chunk.choices
    ]
    assert {choice.index for choice in streamed} == {0, 1, 2}
    assert len([choice for choice in streamed if choice.finish_reason]) == 3


def test_a_seed_gives_the_same_answer_again_or_is_refused(client):
    fields = {**story(150), "temperature": 2.0}  # much longer than what it knows
    seeds = (11, 11, 12, 13)
    try:
        said = [client.chat.completions.create(**fields, seed=seed).choices[0].message.content for seed in seeds]
    except openai.BadRequestError as refused:
        assert (refused.code, refused.param) == ("unsupported_parameter", "seed")  # noqa: PT017 - either is right
    else:
        assert said[0] == said[1]
        assert len(set(said)) > 1


# --- many at once, and those who leave ---


class Crowd:
    """Requests of every kind, each with an answer that only it can have got."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self._client = client

    async def chat(self, number: int) -> bool:
        plain = [entry for entry in golden() if "tools" not in entry and "enable_thinking" not in entry]
        entry = plain[number * 7 % len(plain)]
        answer = await self._client.chat.completions.create(**fields_of(entry))
        return is_golden(entry, answer.choices[0].message)

    async def stream(self, number: int) -> bool:
        plain = [entry for entry in golden() if "tools" not in entry and "enable_thinking" not in entry]
        entry = plain[number * 11 % len(plain)]
        streamed = await read_async(await self._client.chat.completions.create(**fields_of(entry), stream=True))
        return streamed.content == entry["answer"]

    async def tool(self, number: int) -> bool:
        tools = [entry for entry in golden() if "tools" in entry]
        entry = tools[number % len(tools)]
        streamed = await read_async(await self._client.chat.completions.create(**fields_of(entry), stream=True))
        return streamed.calls == entry.get("tool_calls", [])

    async def completion(self, number: int) -> bool:
        entry = golden_texts()[number % len(golden_texts())]
        fields = {"model": "demo", "prompt": entry["prompt"], "temperature": 0, "max_tokens": 200}
        return (await self._client.completions.create(**fields)).choices[0].text == entry["answer"]

    async def schema(self, number: int) -> bool:
        word = f"number {number}"
        form = json_form({"type": "string", "enum": [word]})
        answer = await self._client.chat.completions.create(**ask("Hello!", max_tokens=99, response_format=form))
        return json.loads(answer.choices[0].message.content) == word

    async def sampled(self, number: int) -> bool:
        more = {"temperature": 1.8, "top_p": 0.9, "n": 2, "logprobs": True, "max_tokens": 9 + number}
        fields = {**ask("Tell me a short story."), **more, "extra_body": {"min_tokens": 9 + number}}
        answer = await self._client.chat.completions.create(**fields)
        return all(len(choice.logprobs.content) == 9 + number for choice in answer.choices)

    async def stopped(self, number: int) -> bool:
        entry = longest()
        stop = entry["answer"].split()[3 + number % 8]
        answer = await self._client.chat.completions.create(**fields_of(entry, stop=[stop]))
        return (answer.choices[0].message.content or "") == entry["answer"].partition(stop)[0]

    async def left(self, number: int) -> bool:
        """One whose client goes away after its first words."""
        stream = await self._client.chat.completions.create(**story(1500, stream=True))
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                break
        await stream.close()
        return True

    @property
    def kinds(self):
        return (
            self.chat, self.stream, self.tool, self.completion, self.schema, self.sampled, self.stopped, self.left,
        )  # fmt: skip


def test_32_mixed_requests_at_once_each_get_their_own_answer(server):
    async def ask_all() -> list[str]:
        async with server.async_client() as client:
            kinds = Crowd(client).kinds
            asked = [kinds[number % len(kinds)] for number in range(32)]
            right = await asyncio.gather(*[kind(number) for number, kind in enumerate(asked)])
        return [
            f"{kind.__name__} {number}"
            for number, (kind, good) in enumerate(zip(asked, right, strict=True))
            if not good
        ]

    for _ in range(2):
        assert asyncio.run(ask_all()) == []


def test_an_abandoned_stream_stops_within_a_second(server, wait):
    with server.client() as client:
        stream = client.chat.completions.create(**story(1800, stream=True))
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                break
        wait(lambda: server.running().get("demo-0"), "the engine works on it")
        stream.close()
        wait(lambda: server.running().get("demo-0") == 0, "the engine stops", 1.0)


def test_an_abandoned_answer_stops_within_a_second(server, wait):
    async def leave() -> None:
        async with server.async_client() as client:
            asking = asyncio.create_task(client.chat.completions.create(**story(1800)))
            await asyncio.to_thread(wait, lambda: server.running().get("demo-0"), "the engine works on it")
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(leave())
    wait(lambda: server.running().get("demo-0") == 0, "the engine stops", 1.0)


# --- what is refused ---


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 7}, "top_p"),
        ({"messages": []}, "messages"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"response_format": json_form({"type": "no such type"})}, "response_format"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_refused(client, fields, param):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{**ask("Hello!"), **fields})
    assert refused.value.type == "invalid_request_error"
