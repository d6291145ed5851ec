"""OpenAI chat completions: ``parse_chat`` reads a request, ``ChatWriter`` writes the answer.

::

    request = parse_chat(body)                       # ChatRequest, or InvalidRequest / UnsupportedParameter
    refuse_unsupported(request, HONOURED, "my engine")
    writer = ChatWriter(answer_id, model, created, include_usage=request.include_usage)

    # a stream: bytes of whole server-sent events
    writer.role() · writer.text("Hel") · writer.text("lo") · writer.finish("stop") · writer.usage(usage) · writer.done
    # not a stream: the bytes of the JSON body
    writer.response([ChatChoice(text="Hello", finish_reason="stop")], usage)

Every method takes ``choice=`` (the index, default 0). The constant parts of a chunk are encoded once per request, so a
delta costs the encoding of its text.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.protocols.answers import DONE, ChunkFrame, TokenLogprob, ToolCall, ToolCallDelta, Usage, encode
from xinfer.protocols.content import ImagePart, image_parts
from xinfer.protocols.decoding import Count, GenerationRequest, check_common, decode
from xinfer.protocols.messages import check_message
from xinfer.protocols.tool_choice import is_allowed_tools, narrowed

__all__ = ["ChatChoice", "ChatRequest", "ChatWriter", "parse_chat"]

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


class ChatRequest(GenerationRequest, kw_only=True, forbid_unknown_fields=True):
    """A validated chat request. ``messages`` and ``tools`` are as they came: chat templates read them."""

    messages: list[dict[str, Any]]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | str | None = None
    add_generation_prompt: bool | None = None
    """Whether the prompt ends with the beginning of the assistant's turn; it does unless this says no."""
    continue_final_message: bool | None = None
    """The answer goes on with the last message, which the assistant has begun."""
    enable_thinking: bool | None = None
    reasoning_effort: Effort | None = None

    @property
    def token_limit(self) -> int | None:
        """``max_completion_tokens``, else its old name ``max_tokens``."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def images(self) -> list[ImagePart]:
        """The images that the messages refer to, in order."""
        return image_parts(self.messages)

    @property
    def active_tools(self) -> list[dict[str, Any]] | None:
        """The tools that the model may call; none when ``tool_choice`` says so."""
        return None if self.tool_choice == "none" else self.tools or None

    @property
    def strict_tools(self) -> bool:
        """Whether a tool asks that its arguments follow the schema by force."""
        return any(tool["function"].get("strict") for tool in self.active_tools or ())

    @property
    def thinking(self) -> bool | None:
        """Whether the model shall think first; ``None``: as its template does by default."""
        if self.enable_thinking is not None:
            return self.enable_thinking
        return None if self.reasoning_effort is None else self.reasoning_effort != "none"

    @property
    def begun(self) -> str:
        """The text that the answer goes on with; empty where it begins a message of its own."""
        content = self.messages[-1]["content"] if self.continue_final_message else ""
        return content if isinstance(content, str) else "".join(part["text"] for part in content)

    @property
    def template_arguments(self) -> dict[str, Any]:
        """Variables for the chat template, beside messages and tools."""
        given = self.chat_template_kwargs
        arguments = dict(given) if isinstance(given, dict) else {}
        if self.thinking is not None:
            arguments["enable_thinking"] = self.thinking
        if self.continue_final_message:
            arguments["add_generation_prompt"] = False
        elif self.add_generation_prompt is not None:
            arguments.setdefault("add_generation_prompt", self.add_generation_prompt)
        return arguments


_decoder = msgspec.json.Decoder(ChatRequest)


def parse_chat(body: bytes, *, images: bool = False) -> ChatRequest:
    """Read and check the body of a chat request.

    Args:
        body: as it came.
        images: whether the model sees; else messages with images are refused.

    Raises:
        InvalidRequest: malformed JSON, a missing field, a wrong type or range, a message that makes no sense.
        UnsupportedParameter: something that is right in itself, but not implemented.
    """
    request = decode(body, _decoder)
    check_common(request)
    if not request.messages:
        raise InvalidRequest("'messages' must have at least one message", param="messages")
    for index, message in enumerate(request.messages):
        check_message(message, f"messages[{index}]", images=images)
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs' to be true", param="top_logprobs")
    for index, tool in enumerate(request.tools or ()):
        _check_tool(tool, f"tools[{index}]")
    _check_tool_choice(request)
    _check_template_arguments(request)
    if request.continue_final_message:
        _check_continuation(request)
    return request


# --- tools and templates ----------------------------------------------------------------------------------------------

_FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


def _check_tool(tool: dict[str, Any], where: str) -> None:
    if tool.get("type") != "function":
        raise UnsupportedParameter(
            f"{where}.type must be 'function'; other kinds of tools are not supported", param=f"{where}.type"
        )
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not _FUNCTION_NAME.fullmatch(name):
        raise InvalidRequest(
            f"{where}.function.name must be 1 to 64 letters, digits, '_', '-' or '.'", param=f"{where}.function.name"
        )
    for field, kind, rule in (
        ("description", str, "a string"),
        ("parameters", dict, "an object (a JSON schema)"),
        ("strict", bool, "true or false"),
    ):
        value = function.get(field)
        if value is not None and not isinstance(value, kind):
            raise InvalidRequest(f"{where}.function.{field} must be {rule}", param=f"{where}.function.{field}")
    kind_of_arguments = (function.get("parameters") or {}).get("type", "object")
    if "object" not in (kind_of_arguments if isinstance(kind_of_arguments, list) else [kind_of_arguments]):
        at = f"{where}.function.parameters.type"
        raise InvalidRequest(f"{at} must be 'object': the arguments of a function have names", param=at)


def _check_tool_choice(request: ChatRequest) -> None:
    choice = request.tool_choice
    if choice is None or choice in ("none", "auto"):
        return
    if not request.tools:
        raise InvalidRequest("'tool_choice' needs 'tools' to choose from", param="tool_choice")
    if is_allowed_tools(choice):
        request.tools, request.tool_choice = narrowed(request.tools, choice)
    elif isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        known = [tool["function"]["name"] for tool in request.tools]
        if choice.get("type") != "function" or name not in known:
            raise InvalidRequest(
                '\'tool_choice\' must be "none", "auto", "required" or {"type": "function", "function": {"name": ...}} '
                f"with one of these names: {', '.join(known)}",
                param="tool_choice",
            )


def _check_template_arguments(request: ChatRequest) -> None:
    given = request.chat_template_kwargs
    if isinstance(given, str):
        try:
            request.chat_template_kwargs = msgspec.json.decode(given, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise InvalidRequest(
                f"'chat_template_kwargs' must be an object, or a string that holds one as JSON: {error}",
                param="chat_template_kwargs",
            ) from None
    if request.enable_thinking is not None and request.reasoning_effort is not None:
        raise InvalidRequest(
            "give either 'enable_thinking' or 'reasoning_effort': both say whether the model thinks first",
            param="reasoning_effort",
        )


def _check_continuation(request: ChatRequest) -> None:
    last = request.messages[-1]
    if last["role"] != "assistant" or not last.get("content") or last.get("tool_calls"):
        raise InvalidRequest(
            "'continue_final_message' needs a last message of the assistant that has a text, and no tool calls",
            param="continue_final_message",
        )
    if request.add_generation_prompt:
        raise InvalidRequest(
            "'continue_final_message' goes on with the last message, 'add_generation_prompt' begins a new one: set one "
            "of them to false",
            param="add_generation_prompt",
        )


# --- answers ----------------------------------------------------------------------------------------------------------


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One finished answer. ``finish_reason``: stop, length or tool_calls. ``text`` is ``None`` when there is none."""

    text: str | None
    finish_reason: str
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: Sequence[TokenLogprob] | None = None


class ChatWriter:
    """Writes the answer to one chat request. See the module docstring.

    Args:
        answer_id: what ``id`` says; by custom it starts with ``chatcmpl-``.
        model: the name that the client used.
        created: epoch seconds.
        include_usage: chunks say ``"usage": null``, and a last one has the counts.
    """

    done = DONE

    def __init__(self, answer_id: str, model: str, created: int, *, include_usage: bool = False) -> None:
        self._frame = ChunkFrame(answer_id, "chat.completion.chunk", model, created, include_usage=include_usage)
        self._head = b'{"id":%s,"object":"chat.completion","created":%d,"model":%s,"choices":[' % (
            encode(answer_id),
            created,
            encode(model),
        )
        self._plain_end = b'},"logprobs":null,"finish_reason":null}' + self._frame.end

    def role(self, *, choice: int = 0) -> bytes:
        """The first chunk of a choice: who speaks."""
        return self._frame.start(choice) + b'"delta":{"role":"assistant","content":""' + self._plain_end

    def text(self, text: str, *, choice: int = 0, logprobs: Sequence[TokenLogprob] | None = None) -> bytes:
        """A piece of the answer."""
        return self._frame.start(choice) + b'"delta":{"content":' + encode(text) + self._delta_end(logprobs)

    def reasoning(self, text: str, *, choice: int = 0, logprobs: Sequence[TokenLogprob] | None = None) -> bytes:
        """A piece of what the model thinks before it answers."""
        return self._frame.start(choice) + b'"delta":{"reasoning_content":' + encode(text) + self._delta_end(logprobs)

    def tool_calls(
        self, parts: Sequence[ToolCallDelta], *, choice: int = 0, logprobs: Sequence[TokenLogprob] | None = None
    ) -> bytes:
        """Parts of tool calls."""
        calls = b",".join([part.encoded() for part in parts])
        return self._frame.start(choice) + b'"delta":{"tool_calls":[' + calls + b"]" + self._delta_end(logprobs)

    def finish(self, reason: str, *, choice: int = 0) -> bytes:
        """The last chunk of a choice: why it ended (stop, length, tool_calls)."""
        end = b'"delta":{},"logprobs":null,"finish_reason":%s}' % encode(reason)
        return self._frame.start(choice) + end + self._frame.end

    def usage(self, usage: Usage) -> bytes:
        """The chunk with the token counts, after all choices; only with ``include_usage``."""
        return self._frame.usage(usage)

    def response(self, choices: Sequence[ChatChoice], usage: Usage) -> bytes:
        """The whole answer of a request that does not stream."""
        encoded = b",".join([_encoded_choice(index, choice) for index, choice in enumerate(choices)])
        return b'%s%s],"usage":%s}' % (self._head, encoded, usage.encoded())

    def _delta_end(self, logprobs: Sequence[TokenLogprob] | None) -> bytes:
        if logprobs is None:
            return self._plain_end
        return b'},"logprobs":%s,"finish_reason":null}%s' % (_encoded_logprobs(logprobs), self._frame.end)


def _encoded_choice(index: int, choice: ChatChoice) -> bytes:
    message = [b'{"role":"assistant","content":%s,"refusal":null' % encode(choice.text)]
    if choice.reasoning is not None:
        message.append(b',"reasoning_content":' + encode(choice.reasoning))
    if choice.tool_calls:
        message.append(b',"tool_calls":[' + b",".join([call.encoded() for call in choice.tool_calls]) + b"]")
    return b'{"index":%d,"message":%s},"logprobs":%s,"finish_reason":%s}' % (
        index,
        b"".join(message),
        _encoded_logprobs(choice.logprobs),
        encode(choice.finish_reason),
    )


def _encoded_logprobs(logprobs: Sequence[TokenLogprob] | None) -> bytes:
    return b"null" if logprobs is None else b'{"content":%s,"refusal":null}' % encode(logprobs)
