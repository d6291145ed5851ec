"""Reading request bodies of the text generation operations: what chat and completions share.

A field that is ``None`` was not given (or given as ``null``): the model's default applies. Parsing checks what is wrong
for every engine; ``refuse_unsupported`` then checks what one engine cannot honour. Both raise errors of status 400 that
name the field. Nothing is silently ignored.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.protocols.structured import Structure, structure_of

MAX_CHOICES = 128
MAX_STOP_STRINGS = 16

NonEmpty = Annotated[str, Meta(min_length=1)]
TokenId = Annotated[int, Meta(ge=0, lt=2**31)]
Count = Annotated[int, Meta(ge=1, lt=2**31)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``include_usage``: a last chunk with the token counts. Obfuscation is padding: it changes no content."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class GenerationRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What chat and completion requests have in common, under the names they have on the wire."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Count | None = None
    min_tokens: Annotated[int, Meta(ge=0, lt=2**31)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=10)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[TokenId, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: NonEmpty | Annotated[list[NonEmpty], Meta(max_length=MAX_STOP_STRINGS)] | None = None
    stop_token_ids: list[TokenId] | None = None
    ignore_eos: bool | None = None
    request_id: Annotated[str, Meta(max_length=256)] | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_json_object: bool | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None

    @property
    def structure(self) -> Structure | None:
        """The form that the answer shall have; ``None``: any text."""
        return structure_of(self)

    @property
    def choices(self) -> int:
        """How many answers to each prompt."""
        return self.n or 1

    @property
    def token_limit(self) -> int | None:
        """The most tokens to generate; ``None``: whatever room the context leaves."""
        return self.max_tokens

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """``stop`` as a tuple."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


MUST_BE: Mapping[str, str] = {
    "stream": "true or false",
    "stream_options": 'an object such as {"include_usage": true}',
    "n": f"an integer from 1 to {MAX_CHOICES}",
    "best_of": f"an integer from 1 to {MAX_CHOICES}",
    "max_tokens": "an integer of at least 1",
    "max_completion_tokens": "an integer of at least 1",
    "min_tokens": "an integer of at least 0",
    "temperature": "a number from 0 (greedy) to 2",
    "top_p": "a number above 0 and at most 1",
    "top_k": "an integer of at least -1 (-1 and 0 mean all tokens)",
    "min_p": "a number from 0 to 1",
    "repetition_penalty": "a number from 0.01 to 10 (1 means none)",
    "presence_penalty": "a number from -2 to 2",
    "frequency_penalty": "a number from -2 to 2",
    "logit_bias": "an object from token ids to numbers from -100 to 100",
    "seed": "an integer of at most 64 bits",
    "stop": f"a non-empty string or a list of at most {MAX_STOP_STRINGS} of them",
    "stop_token_ids": "a list of token ids",
    "logprobs": "true or false (chat) or an integer from 0 to 5 (completions)",
    "top_logprobs": "an integer from 0 to 20",
    "prompt": "a string, a list of strings, a list of token ids, or a list of such lists",
    "messages": "a non-empty list of messages",
    "tools": "a list of tools",
    "tool_choice": '"none", "auto", "required" or {"type": "function", "function": {"name": ...}}',
    "reasoning_effort": "none, minimal, low, medium, high or xhigh",
    "chat_template_kwargs": "an object, or a string that holds one as JSON",
    "add_generation_prompt": "true or false",
    "continue_final_message": "true or false",
    "response_format": 'an object such as {"type": "json_schema", "json_schema": {...}}',
    "structured_outputs": 'an object such as {"json": {...}}',
    "guided_json": "a JSON schema: an object, or a string that holds one",
    "guided_json_object": "true or false",
    "guided_regex": "a regular expression",
    "guided_choice": "a list of strings",
    "guided_grammar": "a grammar in Lark or GBNF",
    "guided_whitespace_pattern": "a regular expression",
}
"""What a field must be, for error messages."""

HARMLESS: AbstractSet[str] = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "cache_salt",
        "guided_decoding_backend",
    }
)
"""Fields that are accepted with any value: they ask for nothing that changes the answer."""

INERT_VALUES: Mapping[str, Collection[Any]] = {
    "modalities": (["text"], []),
    "verbosity": ("medium",),
    "functions": ([],),
    "function_call": ("none",),
    "mm_processor_kwargs": ({},),
    "prompt_logprobs": (False,),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "add_special_tokens": (),
    "suffix": ("",),
    "priority": (0,),
}
"""Fields we do not implement, with the values that ask for what happens anyway. Those pass, others are refused."""

ADVICE: Mapping[str, str] = {
    "functions": "use 'tools' instead",
    "function_call": "use 'tool_choice' instead",
}

Request = TypeVar("Request", bound=GenerationRequest)


@contextlib.contextmanager
def refusing_deep_nesting() -> Iterator[None]:
    """For work on what clients send: lists and objects within each other, more of them than Python can follow.

    Raises:
        InvalidRequest: in place of ``RecursionError``.
    """
    try:
        yield
    except RecursionError:
        raise InvalidRequest("the request has too many lists and objects within each other") from None


def decode(body: bytes, decoder: msgspec.json.Decoder[Request]) -> Request:
    """Decode a request body.

    Raises:
        InvalidRequest: not JSON (says at which byte), a missing field, or a value of the wrong type or range.
        UnsupportedParameter: a field that we do not know or implement, with a value that would change the answer.
    """
    try:
        try:
            return decoder.decode(body)
        except msgspec.ValidationError:
            fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the request body is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InvalidRequest('the request body must be a JSON object, such as {"model": ...}')
    return _convert_known_fields(fields, decoder.type)


def _convert_known_fields(fields: dict[str, Any], kind: type[Request]) -> Request:
    """The slow way, for bodies that do not fit at once: drop fields that ask for nothing, explain what is wrong."""
    known = {field.name for field in msgspec.structs.fields(kind)}
    for name in fields.keys() - known:
        value = fields.pop(name)
        if value is None or name in HARMLESS or _is_inert(name, value):
            continue
        advice = ADVICE.get(name, "leave it out")
        raise UnsupportedParameter(f"{name!r} is not supported here: {advice}", param=name)
    try:
        return msgspec.convert(fields, kind, str_keys=True)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from None


def _is_inert(name: str, value: Any) -> bool:
    """Whether a field we do not implement asks for what happens anyway. No number is inert because a bool equals it."""
    inert = INERT_VALUES.get(name, ())
    return any(value == one and isinstance(value, bool) is isinstance(one, bool) for one in inert)


def _explain(text: str) -> InvalidRequest:
    """Msgspec writes "Expected `int`, got `str` - at `$.n`"; say which parameter and what it must be."""
    reason, _, path = text.rpartition(" - at ")
    if not reason:
        missing = text.partition("missing required field `")[2].rstrip("`")
        return InvalidRequest(f"the required field {missing!r} is missing" if missing else text, param=missing or None)
    param = path.strip("`").removeprefix("key` in `").removeprefix("$.").replace("[...]", "")
    name = param.partition(".")[0].partition("[")[0]
    rule = f"must be {MUST_BE[name]}: " if name in MUST_BE else "is wrong: "
    if param != name and name in MUST_BE:
        rule = f"is wrong ({name!r} must be {MUST_BE[name]}): "
    return InvalidRequest(f"{param!r} {rule}{reason[:1].lower()}{reason[1:]}", param=param)


_NEUTRAL: Mapping[str, Collection[Any]] = {
    "n": (1,),
    "max_tokens": (),
    "max_completion_tokens": (),
    "min_tokens": (0,),
    "temperature": (1,),
    "top_p": (1,),
    "top_k": (-1, 0),
    "min_p": (0,),
    "repetition_penalty": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "seed": (),
    "stop": ([],),
    "stop_token_ids": ([],),
    "ignore_eos": (False,),
    "logprobs": (False,),
    "top_logprobs": (),
    "echo": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "strict_tools": (False,),
    "structure": (),
    "parallel_tool_calls": (True,),
    "chat_template_kwargs": ({}, "{}"),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "enable_thinking": (False,),
    "reasoning_effort": ("none",),
}


def refuse_unsupported(request: GenerationRequest, honoured: AbstractSet[str], engine: str) -> None:
    """Check that an engine honours every parameter that is set to something other than its neutral value.

    ``honoured`` holds parameter names as they are on the wire. ``tool_choice`` in it means that calls can be forced
    (none and auto ask for nothing), ``strict_tools`` that ``strict`` in a tool is kept, ``structure`` that an answer
    gets the form that ``response_format`` and the like ask for.

    Raises:
        UnsupportedParameter: names the first parameter that is not honoured.
    """
    for name, neutral in _NEUTRAL.items():
        if name in honoured:
            continue
        value = getattr(request, name, None)
        if value is None or value in neutral:
            continue
        shown = {"strict_tools": "tools[].function.strict"}.get(name, name)
        if isinstance(value, Structure):
            shown = value.param
        raise UnsupportedParameter(
            f"this value of {shown!r} is not supported by the engine {engine!r} that serves the model; leave it out",
            param=shown,
        )


def check_common(request: GenerationRequest) -> None:
    """Rules between fields.

    Raises:
        InvalidRequest: the fields contradict each other.
    """
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("'stream_options' is only allowed when 'stream' is true", param="stream_options")
    limit = request.token_limit
    if limit is not None and request.min_tokens is not None and request.min_tokens > limit:
        raise InvalidRequest(
            f"'min_tokens' ({request.min_tokens}) must not exceed the limit of tokens ({limit})", param="min_tokens"
        )
    structure_of(request)
