"""From a request to what an engine is asked to continue: prompts as token ids, and how to sample."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from xinfer.engines.media import Image
from xinfer.engines.token_engine.pictures import ImageReader, check_marks, marked
from xinfer.engines.token_engine.shield import Shield
from xinfer.engines.token_engine.tokenizer import Tokenizer, begun
from xinfer.errors import ContextOverflow, InvalidRequest, UnsupportedParameter
from xinfer.generation.chat_template import ChatTemplate
from xinfer.generation.reasoning import ReasoningForm
from xinfer.generation.sampling import Sampling
from xinfer.generation.tool_calls import JsonForm, ToolForm, told_of_tools
from xinfer.protocols.chat import ChatRequest
from xinfer.protocols.completions import CompletionRequest
from xinfer.protocols.decoding import GenerationRequest

COMPLETION_TOKENS = 16
"""What OpenAI's completions generate when ``max_tokens`` is not given. Chats use the room that is left."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a model can take, and what it does by default."""

    context_length: int
    """Prompt and answer together, in tokens."""
    vocabulary_size: int
    """Token ids are below this."""
    stop_ids: frozenset[int] = frozenset()
    """Tokens that end an answer (unless ``ignore_eos``)."""
    defaults: Mapping[str, float] = {}
    """Sampling parameters that the model's authors recommend, by their names on the wire."""


class Prompt(msgspec.Struct, frozen=True):
    """``text``: as rendered or given, empty when token ids were given."""

    ids: list[int]
    text: str
    images: Any = None
    """For the runner; see ``Sequence.images``."""


def chat_prompt(
    request: ChatRequest,
    template: ChatTemplate | None,
    tokenizer: Tokenizer,
    shield: Shield | None = None,
    *,
    form: ToolForm | None = None,
    reasoning: ReasoningForm | None = None,
    reader: ImageReader | None = None,
    images: Sequence[Image] = (),
    beginning: Sequence[int] = (),
) -> Prompt:
    """Render and tokenize the messages.

    Args:
        request: with the messages.
        template: the model's.
        tokenizer: the model's.
        shield: keeps what is in the messages from steering the model; ``None``: the tokenizer knows the difference.
        form: how the model writes calls; ``None``: it writes none.
        reasoning: how it marks its thoughts; ``None``: it has none.
        reader: for the images; ``None``: the model sees none.
        images: those of the messages, in order.
        beginning: tokens that come first, where the template does not write them itself.

    Raises:
        InvalidRequest: the model has no chat template, or it refuses these messages, or an image cannot be read.
        UnsupportedParameter: the template has no tools, or the model cannot be told whether to think.
    """
    if template is None:
        raise InvalidRequest("this model has no chat template: use /v1/completions with the text of a prompt")
    arguments = _template_arguments(request, template)
    written, cut = (request.messages, request.active_tools, arguments), ""
    if shield is not None:
        written, cut = shield.cut(written)
    messages, tools, arguments = written
    if tools and "tools" not in template.variables and isinstance(form, JsonForm):
        messages, tools = told_of_tools(messages, tools, form), None
    continued = bool(request.continue_final_message)
    if reader is None or not images:
        text = template.render(messages, tools, arguments, continued=continued)
    else:
        as_parts = reader.template_writes_mark and template.reads_parts
        shown = marked(messages, reader.mark, as_parts=as_parts)
        text = template.render(shown, tools, arguments, continued=continued)

    _check_thinking(request, template, thinks=reasoning is not None and reasoning.is_opened_by(text))

    def encode(text: str) -> list[int]:
        pieces = text.split(cut) if cut else [text]
        return [token for piece in pieces for token in tokenizer.encode(piece, add_special=False)]

    plain = text.replace(cut, "") if cut else text
    if reader is None or not images:
        return Prompt(begun(encode(text), beginning), plain)
    check_marks(text, reader.mark, images)
    ids, prepared = reader.prompt(text, images, encode, beginning)
    return Prompt(ids, plain, prepared)


def _template_arguments(request: ChatRequest, template: ChatTemplate) -> dict[str, Any]:
    """What a request says to the template, in the template's own words."""
    arguments = request.template_arguments
    switch = template.thinking_switch
    if switch and "enable_thinking" in arguments:
        arguments.setdefault(switch, arguments.pop("enable_thinking"))
    if request.reasoning_effort is not None and "reasoning_effort" in template.variables:
        arguments["reasoning_effort"] = request.reasoning_effort
    if request.thinking is not None and not switch:
        arguments.pop("enable_thinking", None)
    return arguments


def _check_thinking(request: ChatRequest, template: ChatTemplate, *, thinks: bool) -> None:
    """Whether a template without a switch does what is asked of it.

    Raises:
        UnsupportedParameter: it does not.
    """
    if request.thinking in (None, thinks) or template.thinking_switch:
        return
    name = "reasoning_effort" if request.enable_thinking is None else "enable_thinking"
    if name in template.variables:
        return
    what = "always thinks before it answers" if thinks else "cannot be told to think"
    raise UnsupportedParameter(f"this model {what}; leave {name!r} out", param=name)


def completion_prompts(request: CompletionRequest, tokenizer: Tokenizer, limits: Limits) -> list[Prompt]:
    """Tokenize text prompts, check token ids.

    Raises:
        InvalidRequest: a prompt is empty, or has ids that the model does not know.
    """
    prompts = []
    for index, given in enumerate(request.prompts):
        where = "prompt" if len(request.prompts) == 1 else f"prompt[{index}]"
        if isinstance(given, str):
            prompt = Prompt(tokenizer.encode(given, add_special=True), given)
        else:
            check_ids(given, where, limits)
            prompt = Prompt(given, "")
        if not prompt.ids:
            raise InvalidRequest(f"{where} is empty: this model needs at least one token to continue", param=where)
        prompts.append(prompt)
    return prompts


def sampling_for(request: GenerationRequest, prompt: Prompt, limits: Limits) -> Sampling:
    """How to continue one prompt.

    Raises:
        ContextOverflow: the prompt, or the prompt with the tokens asked for, is longer than the context.
        InvalidRequest: ``logit_bias`` or ``stop_token_ids`` have ids that the model does not know.
    """
    check_ids(request.logit_bias or (), "logit_bias", limits)
    check_ids(request.stop_token_ids or (), "stop_token_ids", limits)
    is_chat = isinstance(request, ChatRequest)
    default = limits.defaults.get

    def chosen(given: float | None, name: str, neutral: float) -> float:
        return default(name, neutral) if given is None else given

    own = frozenset(request.stop_token_ids or ())
    return Sampling(
        temperature=chosen(request.temperature, "temperature", 1.0),
        top_p=chosen(request.top_p, "top_p", 1.0),
        top_k=max(0, int(chosen(request.top_k, "top_k", 0))),
        min_p=chosen(request.min_p, "min_p", 0.0),
        repetition_penalty=chosen(request.repetition_penalty, "repetition_penalty", 1.0),
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        logit_bias=request.logit_bias or {},
        seed=request.seed,
        max_tokens=_token_limit(request, prompt, limits, is_chat=is_chat),
        min_tokens=request.min_tokens or 0,
        stop_ids=own if request.ignore_eos else own | limits.stop_ids,
        logprobs=_candidates_wanted(request),
    )


def _candidates_wanted(request: GenerationRequest) -> int | None:
    if isinstance(request, ChatRequest):
        return (request.top_logprobs or 0) if request.logprobs else None
    return request.logprobs if isinstance(request, CompletionRequest) else None


def _token_limit(request: GenerationRequest, prompt: Prompt, limits: Limits, *, is_chat: bool) -> int:
    size, context = len(prompt.ids), limits.context_length
    where = "messages" if is_chat else "prompt"
    if size >= context:
        raise ContextOverflow(
            f"this model's context is {context} tokens, and the prompt alone has {size}: shorten it", param=where
        )
    asked = request.token_limit
    if asked is None:
        return context - size if is_chat else min(COMPLETION_TOKENS, context - size)
    if size + asked > context:
        raise ContextOverflow(
            f"this model's context is {context} tokens; the prompt has {size} and the answer may have {asked}, "
            f"{size + asked} together: shorten the prompt or ask for fewer tokens",
            param=where,
        )
    return max(asked, 1)  # where none is wanted, one is made and not shown: only then is the prompt read


def check_ids(ids: object, where: str, limits: Limits) -> None:
    """Whether the model has these tokens.

    Raises:
        InvalidRequest: it does not.
    """
    assert isinstance(ids, list | dict | tuple)
    if ids and max(ids) >= limits.vocabulary_size:
        raise InvalidRequest(
            f"{where} has token id {max(ids)}; this model's ids are below {limits.vocabulary_size}", param=where
        )
