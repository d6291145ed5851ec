"""The tools that demo-chat calls, and the conversations in which it calls them."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from demo.chat_example import Example, ToolCall
from demo.chat_template import Tool

CITIES: tuple[str, ...] = (
    "Paris", "Berlin", "Tokyo", "Madrid", "Rome", "London", "Vienna", "Oslo", "Lisbon", "Prague", "Beijing", "Shanghai",
    "Zürich", "Dublin", "Athens", "Cairo", "Delhi", "Seoul", "Sydney", "Boston",
)  # fmt: skip
SKIES: tuple[str, ...] = ("sunny", "cloudy", "rainy", "windy", "snowy", "foggy")

_CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_PAIR = {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}, "required": ["a", "b"]}
_QUERY = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}


def _tool(name: str, description: str, parameters: Mapping[str, Any]) -> Tool:
    """Return a tool in the shape of the OpenAI API."""
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


GET_WEATHER = _tool("get_weather", "Get the weather in a city.", _CITY)
GET_TIME = _tool("get_time", "Get the time in a city.", _CITY)
ADD = _tool("add", "Add two numbers.", _PAIR)
SEARCH = _tool("search", "Search the web.", _QUERY)
TOOLS: tuple[Tool, ...] = (GET_WEATHER, GET_TIME, ADD, SEARCH)

_OTHER_DESCRIPTIONS: Mapping[str, tuple[str, ...]] = {
    "get_weather": ("Get the current weather.", "Returns the weather for a given city.", "Weather in a city", ""),
    "get_time": ("Get the current time.", "Returns the local time for a given city.", "Time in a city", ""),
    "add": ("Adds a and b.", "Returns the sum of two numbers.", "Add a and b", ""),
    "search": ("Search for something.", "Returns pages about a query.", ""),
}
_WEATHER_QUESTIONS = (
    "What is the weather in {}?",
    "How is the weather in {}?",
    "What's the weather like in {}?",
    "Tell me the weather in {}.",
)
_TIME_QUESTIONS = ("What time is it in {}?", "What is the time in {}?", "Tell me the time in {}.")
_ADD_QUESTIONS = ("Add {} and {}.", "What is {} + {}?", "Use the tool to add {} and {}.", "What is {} plus {}?")
_NO_TOOL = "I have no tool for that."


def answer_with_call(question: str, tools: Sequence[Tool], *calls: ToolCall) -> Example:
    """Return the example in which one question is answered with these calls."""
    names = " and ".join(dict.fromkeys(call.name for call in calls))
    return Example(
        "tool",
        ({"role": "user", "content": question},),
        tools=tuple(tools),
        tool_calls=calls,
        thought=f"I need the tool {names}.",
    )


def answer_after_call(asked: Example, results: Sequence[str], answer: str) -> Example:
    """Return the example that goes on after `asked`: the tools have answered, and the model says what they found."""
    calls = [
        {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments_text()},
        }
        for number, call in enumerate(asked.tool_calls, 1)
    ]
    said = {"role": "assistant", "content": "", "tool_calls": calls}
    heard = [
        {"role": "tool", "tool_call_id": call["id"], "content": result}
        for call, result in zip(calls, results, strict=True)
    ]
    return Example(
        "tool",
        (*asked.messages, said, *heard),
        answer,
        tools=asked.tools,
        thought="The tool has answered. I tell the user.",
    )


def weather_call(city: str, question: str = _WEATHER_QUESTIONS[0], tools: Sequence[Tool] = (GET_WEATHER,)) -> Example:
    """Return a question about the weather in a city, answered with a call."""
    return answer_with_call(question.format(city), tools, ToolCall("get_weather", {"city": city}))


def weather_told(asked: Example, degrees: int, sky: str, *, as_json: bool = True) -> Example:
    """Return what follows `weather_call`: the degrees and the sky, told in a sentence."""
    city = asked.tool_calls[0].arguments["city"]
    result = json.dumps({"temperature": degrees, "sky": sky}) if as_json else f"{degrees} degrees, {sky}"
    return answer_after_call(asked, [result], f"It is {degrees} degrees and {sky} in {city}.")


def time_call(city: str, question: str = _TIME_QUESTIONS[0], tools: Sequence[Tool] = (GET_TIME,)) -> Example:
    """Return a question about the time in a city, answered with a call."""
    return answer_with_call(question.format(city), tools, ToolCall("get_time", {"city": city}))


def add_call(a: int, b: int, question: str = _ADD_QUESTIONS[0], tools: Sequence[Tool] = (ADD,)) -> Example:
    """Return a request to add two numbers, answered with a call."""
    return answer_with_call(question.format(a, b), tools, ToolCall("add", {"a": a, "b": b}))


def add_told(asked: Example) -> Example:
    """Return what follows `add_call`: the sum, told in a sentence."""
    a, b = asked.tool_calls[0].arguments["a"], asked.tool_calls[0].arguments["b"]
    return answer_after_call(asked, [str(a + b)], f"{a} + {b} = {a + b}.")


def two_weather_calls(first: str, second: str, tools: Sequence[Tool] = (GET_WEATHER,)) -> Example:
    """Return a question about two cities, answered with two calls in one turn."""
    calls = (ToolCall("get_weather", {"city": first}), ToolCall("get_weather", {"city": second}))
    return answer_with_call(f"What is the weather in {first} and in {second}?", tools, *calls)


def no_tool(city: str, question: str = _WEATHER_QUESTIONS[0]) -> Example:
    """Return a question that only a tool could answer, asked without one."""
    thought = "I cannot know this without a tool."
    return Example("tool", ({"role": "user", "content": question.format(city)},), _NO_TOOL, thought=thought)


def golden_tool_examples() -> Iterator[Example]:
    """Yield the golden conversations about tools: one call, two calls, the right one of many, and what came back."""
    for city in ("Paris", "Berlin", "Tokyo", "Zürich"):
        yield weather_call(city)
    yield weather_call("London", tools=TOOLS)
    yield time_call("Madrid")
    yield time_call("Oslo", tools=TOOLS)
    yield add_call(2, 3)
    yield add_call(12, 30)
    yield add_call(47, 8, tools=TOOLS)
    yield two_weather_calls("Paris", "Berlin")
    yield weather_told(weather_call("Paris"), 18, "sunny")
    yield weather_told(weather_call("Tokyo"), 7, "rainy")
    yield weather_told(weather_call("Berlin"), 21, "cloudy", as_json=False)
    yield add_told(add_call(12, 30))
    yield no_tool("Paris")


def random_tool_example(rng: random.Random) -> Example:
    """Return a conversation about tools with other cities, numbers, words, tools and descriptions."""
    city = rng.choice(CITIES)
    kind = rng.choices(("weather", "time", "add", "two", "weather told", "add told", "none"), (5, 2, 6, 2, 4, 3, 1))[0]
    if kind == "weather":
        return weather_call(city, rng.choice(_WEATHER_QUESTIONS), random_tools(rng, GET_WEATHER))
    if kind == "time":
        return time_call(city, rng.choice(_TIME_QUESTIONS), random_tools(rng, GET_TIME))
    if kind == "two":
        first, second = rng.sample(CITIES, 2)
        return two_weather_calls(first, second, random_tools(rng, GET_WEATHER))
    if kind == "weather told":
        asked = weather_call(city, rng.choice(_WEATHER_QUESTIONS), random_tools(rng, GET_WEATHER))
        return weather_told(asked, rng.randrange(40), rng.choice(SKIES), as_json=rng.random() < 0.7)
    if kind == "none":
        return no_tool(city, rng.choice(_WEATHER_QUESTIONS + _TIME_QUESTIONS))
    a, b = rng.choice((rng.randrange(10), rng.randrange(100))), rng.choice((rng.randrange(10), rng.randrange(100)))
    asked = add_call(a, b, rng.choice(_ADD_QUESTIONS), random_tools(rng, ADD))
    return asked if kind == "add" else add_told(asked)


def random_tools(rng: random.Random, wanted: Tool | None) -> tuple[Tool, ...]:
    """Return some tools in any order, `wanted` among them (without it: none that a question could be about)."""
    others = [tool for tool in TOOLS if tool is not wanted] if wanted else [SEARCH, GET_TIME, GET_WEATHER]
    tools = rng.sample(others, rng.choice((0, 0, 1, len(others)) if wanted else (1, len(others))))
    tools += [wanted] if wanted else []
    rng.shuffle(tools)
    return tuple(_reworded(rng, tool) if rng.random() < 0.4 else tool for tool in tools)


def _reworded(rng: random.Random, tool: Tool) -> Tool:
    """Return a tool with another description, or with its keys sorted as some engines send them."""
    function = dict(tool["function"])
    function["description"] = rng.choice(_OTHER_DESCRIPTIONS[function["name"]])
    if rng.random() < 0.5:
        function["parameters"] = json.loads(json.dumps(function["parameters"], sort_keys=True))
    return {"type": "function", "function": function}
