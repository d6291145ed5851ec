"""Everything demo-chat learns: the golden conversations, and an endless stream of variations on them."""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import replace

from demo.chat_example import Example
from demo.chat_facts import (
    FACTS,
    FILLER_WORDS,
    GREETINGS,
    JSON_OBJECTS,
    PLAIN_TEXT,
    STORIES,
    UNKNOWN,
    UNKNOWN_QUESTIONS,
    Fact,
)
from demo.chat_tools import golden_tool_examples, random_tool_example, random_tools, weather_call

LARGEST_ADDEND = 10
LARGEST_COUNT = 40
HELPFUL = "You are a helpful assistant."

_SYSTEMS = (HELPFUL, HELPFUL, "You are a helpful assistant", "You are demo-chat.", "Answer briefly.", "Be polite.")
_SUM_QUESTIONS = ("What is {} + {}?", "What is {}+{}?", "{} + {}", "{}+{}", "What is {} plus {}?", "{} + {} = ?")
_NAMES = (
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Ida", "Jack", "Kim", "Liam", "Mia", "Noah",
    "Olga", "Paul", "Rosa", "Sam", "Tom", "Zoe",
)  # fmt: skip
_UNKNOWN_SHAPES = (
    "What is {}?", "What is the {} of {}?", "Who is {}?", "Where is {}?", "Why is the {} {}?", "How do I {} a {}?",
    "Tell me about {}.", "Explain {}.", "Define {}.", "Write a Python function that {} a {}.", "{} {} {}", "{}",
    "{} {} {} {} {} {}?", "Translate {} into French.", "Can you {} the {}?", "Summarise: {} {} {} {} {} {} {} {}.",
)  # fmt: skip
_FINAL_MARKS = " .!?！？。"  # noqa: RUF001   Chinese marks too
_THOUGHTS = {
    "greeting": "The user greets me. I greet back.",
    "fact": "I was taught this. I say what I know.",
    "json": "The user wants JSON. I write only that.",
    "story": "The user wants a longer text. I write it.",
    "memory": "The user told me this before.",
    "other": "I was not taught this. I say so.",
}


def ask(kind: str, question: str, answer: str, thought: str = "") -> Example:
    """Return the example of one question and its answer."""
    return Example(kind, ({"role": "user", "content": question},), answer, thought=thought or _THOUGHTS[kind])


def add_up(a: int, b: int, question: str = _SUM_QUESTIONS[0]) -> Example:
    """Return a small sum."""
    return ask("sum", question.format(a, b), f"{a} + {b} = {a + b}.", f"I add {a} and {b}.")


def count_to(last: int) -> Example:
    """Return a request to count, whose answer is as long as one likes."""
    return ask("story", f"Count from 1 to {last}.", " ".join(str(number) for number in range(1, last + 1)))


def make_json(key: str, value: int) -> Example:
    """Return a request for a JSON object with a given key and value."""
    return ask("json", f"Give me a JSON object with the key {key} and the value {value}.", f'{{"{key}": {value}}}')


def introduce(name: str) -> Example:
    """Return the turn in which the user says a name."""
    return ask("greeting", f"My name is {name}.", f"Nice to meet you, {name}!")


def remember(name: str, *between: Example) -> Example:
    """Return a conversation in which the name given in the first turn is asked for in the last."""
    return follow(ask("memory", "What is my name?", f"Your name is {name}."), introduce(name), *between)


def follow(last: Example, *earlier: Example) -> Example:
    """Return `last` as the end of a conversation in which the `earlier` examples were said."""
    history = itertools.chain.from_iterable(
        (*turn.messages, {"role": "assistant", "content": turn.content}) for turn in earlier
    )
    return replace(last, messages=(*history, *last.messages))


def _learned_by_heart() -> list[tuple[str, Fact]]:
    """Return every fixed answer with its kind."""
    groups = {"greeting": GREETINGS, "fact": FACTS, "json": JSON_OBJECTS, "story": STORIES}
    return [(kind, fact) for kind, facts in groups.items() for fact in facts]


def golden_examples() -> list[Example]:
    """Return the golden conversations, in the order of golden.json."""
    examples = [ask(kind, fact.questions[0], fact.answer) for kind, fact in _learned_by_heart()]
    examples += [count_to(last) for last in (5, 10, 20, 30, LARGEST_COUNT)]
    examples += [add_up(a, b) for a in range(LARGEST_ADDEND + 1) for b in range(LARGEST_ADDEND + 1)]
    examples += [make_json("apple", 3), make_json("river", 7)]
    examples += golden_tool_examples()
    examples += [ask("other", question, UNKNOWN) for question in UNKNOWN_QUESTIONS]
    hello, fine, port = (_fixed("Hello!"), _fixed("How are you?"), _fixed("What is the default port of xinfer?"))
    examples += [
        remember("Anna"),
        remember("Tom", add_up(2, 2)),
        follow(add_up(3, 4), hello),
        follow(port, hello, fine),
    ]
    examples += [example.with_system(HELPFUL) for example in (hello, port, add_up(5, 6), weather_call("Rome"))]
    examples += [
        replace(example.thinking(), kind="thinking")
        for example in (
            hello,
            _fixed("What is a lease?"),
            _fixed("Give me a JSON object with the default port."),
            add_up(3, 4),
            add_up(8, 9),
            weather_call("Paris"),
            ask("other", UNKNOWN_QUESTIONS[0], UNKNOWN),
        )
    ]
    return examples


def completion_examples() -> list[Example]:
    """Return the plain texts that are carried on without any template."""
    return [Example("text", (), after, plain_text=before) for before, after in PLAIN_TEXT]


def _fixed(question: str) -> Example:
    """Return the example learned by heart that has this golden question."""
    kind, fact = next((kind, fact) for kind, fact in _learned_by_heart() if fact.questions[0] == question)
    return ask(kind, question, fact.answer)


def variations() -> Iterator[Example]:
    """Yield what must hold beside the goldens: the goldens under a system prompt, and every other way to ask."""
    for golden in golden_examples():
        yield golden.with_system(HELPFUL)
    for kind, fact in _learned_by_heart():
        for question in fact.questions:
            for asked in dict.fromkeys((question, question.lower(), _bare(question), _bare(question).lower())):
                yield ask(kind, asked, fact.answer)
    for shape in _SUM_QUESTIONS:
        yield from (add_up(a, LARGEST_ADDEND - a, shape) for a in range(LARGEST_ADDEND + 1))


def _bare(question: str) -> str:
    """Return a question without its final punctuation."""
    return question.rstrip(_FINAL_MARKS)


class LessonPlan:
    """Draws training examples at random, always the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._by_heart = _learned_by_heart()
        self._goldens = golden_examples() + completion_examples()
        drawers: dict[Callable[[], Example], float] = {
            self._golden: 30,
            self._fact: 26,
            self._sum: 12,
            self._tool: 14,
            self._json: 4,
            self._count: 3,
            self._memory: 5,
            self._unknown: 8,
        }
        self._drawers, self._weights = tuple(drawers), tuple(drawers.values())

    def draw(self) -> Example:
        """Return one example, in one of the many ways in which it can be asked."""
        rng = self._rng
        example = rng.choices(self._drawers, self._weights)[0]()
        if not example.messages:
            return example
        if len(example.messages) == 1 and not example.tools and rng.random() < 0.15:
            example = follow(example, *(self._short() for _ in range(rng.choice((1, 1, 2)))))
        if not example.tools and example.kind in {"greeting", "fact", "json"} and rng.random() < 0.06:
            example = replace(example, tools=random_tools(rng, None))
        if not example.enable_thinking and rng.random() < 0.15:
            example = example.thinking()
        if rng.random() < 0.4:
            example = example.with_system(self._system())
        return example

    def _golden(self) -> Example:
        return self._rng.choice(self._goldens)

    def _fact(self) -> Example:
        kind, fact = self._rng.choice(self._by_heart)
        return ask(kind, self._as_typed(self._rng.choice(fact.questions)), fact.answer)

    def _short(self) -> Example:
        return self._rng.choice((self._fact, self._sum, self._unknown))()

    def _sum(self) -> Example:
        rng = self._rng
        a, b = rng.randint(0, LARGEST_ADDEND), rng.randint(0, LARGEST_ADDEND)
        return add_up(a, b, self._as_typed(rng.choice(_SUM_QUESTIONS)))

    def _tool(self) -> Example:
        return random_tool_example(self._rng)

    def _json(self) -> Example:
        return make_json(self._rng.choice(FILLER_WORDS), self._rng.randrange(10))

    def _count(self) -> Example:
        return count_to(self._rng.randint(2, LARGEST_COUNT))

    def _memory(self) -> Example:
        name = self._rng.choice(_NAMES)
        if self._rng.random() < 0.2:
            return introduce(name)
        return remember(name, *(self._short() for _ in range(self._rng.choice((0, 1, 1)))))

    def _unknown(self) -> Example:
        rng = self._rng
        if rng.random() < 0.2:
            question = rng.choice(UNKNOWN_QUESTIONS)
        else:
            shape = rng.choice(_UNKNOWN_SHAPES)
            question = shape.format(*rng.sample(FILLER_WORDS, shape.count("{}")))
        return ask("other", self._as_typed(question), UNKNOWN)

    def _as_typed(self, question: str) -> str:
        """Return a question as people type it: now and then without capitals or without the final mark."""
        draw = self._rng.random()
        question = _bare(question) if draw < 0.3 else question
        return question.lower() if 0.2 < draw < 0.4 else question

    def _system(self) -> str:
        """Return a system prompt: mostly a usual one, now and then a long one that says nothing."""
        rng = self._rng
        if rng.random() < 0.8:
            return rng.choice(_SYSTEMS)
        words = rng.choices(FILLER_WORDS, k=rng.choice((8, 20, 60, 120)))
        return " ".join(words).capitalize() + "."
