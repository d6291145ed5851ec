"""A request made ready: checked, tokenized, with a writer for its answer."""

from collections.abc import Callable, Collection
from collections.abc import Sequence as Items
from collections.abc import Set as AbstractSet

import msgspec

from xinfer.engines.base import Call
from xinfer.engines.media import Image
from xinfer.engines.token_engine.answers import Answer, ChatAnswer, CompletionAnswer
from xinfer.engines.token_engine.constraint import Constraints
from xinfer.engines.token_engine.pictures import ImageReader
from xinfer.engines.token_engine.prompts import Limits, Prompt, chat_prompt, completion_prompts, sampling_for
from xinfer.engines.token_engine.sequence import Candidates
from xinfer.engines.token_engine.shield import Shield
from xinfer.engines.token_engine.text import AnswerText, NoText
from xinfer.engines.token_engine.tokenizer import Tokenizer
from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.generation.chat_template import ChatTemplate
from xinfer.generation.grammar import CallRules, Grammar, answer_grammar
from xinfer.generation.reasoning import reasoning_form
from xinfer.generation.sampling import Sampling
from xinfer.generation.tool_calls import Tool, new_call_id, read_tools, shows_several_calls, tool_form
from xinfer.ops import Op
from xinfer.protocols.chat import ChatRequest, ChatWriter, parse_chat
from xinfer.protocols.completions import CompletionRequest, CompletionWriter, parse_completion
from xinfer.protocols.decoding import GenerationRequest, refuse_unsupported, refusing_deep_nesting


class Job(msgspec.Struct, kw_only=True):
    """What has to be done for one request."""

    prompts: list[Prompt]
    samplings: list[Sampling]
    """One for each prompt."""
    choices: int
    """For each prompt."""
    stream: bool
    include_usage: bool
    eager: bool
    """Tokens are looked at as they come: somebody reads along, or text may end the answer."""
    new_text: Callable[[Prompt, Sampling], AnswerText]
    answer: Answer
    grammar: Grammar | None = None
    """What the answers may be, where that is not left to the model."""
    constraints: Constraints | None = None
    """That grammar, compiled: to be set before the job is run."""
    adapter: object = None
    """What changes the model for this job; see ``Sequence``."""
    prompt_candidates: list[list[Candidates | None]] = []
    """For each choice, filled while it runs; only where the prompt's log probabilities are asked for."""


class JobMaker:
    """Makes jobs for one model, in two steps: what a request refers to has to be fetched in between."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        limits: Limits,
        honoured: AbstractSet[str],
        engine: str,
        *,
        control_tokens: Collection[str] = (),
        reader: ImageReader | None = None,
        beginning: Items[int] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._limits = limits
        self._honoured = honoured
        self._engine = engine
        self._shield = Shield(control_tokens if reader is None else {*control_tokens, reader.mark})
        self._reader = reader
        self._beginning = list(beginning)
        source = template.source if template else ""
        self._reasoning = None if template is None else reasoning_form(source, tokenizer.vocabulary)
        self._tool_form = tool_form(source)
        self._calls_several = template is None or shows_several_calls(template)

    @property
    def sees(self) -> bool:
        """Whether messages may have images."""
        return self._reader is not None

    def chat_prompt(self, request: ChatRequest, images: Items[Image] = ()) -> Prompt:
        """What the model is given to continue for a chat.

        Raises:
            InvalidRequest: the model has no chat template, or it refuses these messages, or an image cannot be read.
        """
        return chat_prompt(
            request,
            self._template,
            self._tokenizer,
            self._shield,
            form=self._tool_form,
            reasoning=self._reasoning,
            reader=self._reader,
            images=images,
            beginning=self._beginning,
        )

    def read(self, call: Call) -> ChatRequest | CompletionRequest:
        """Read a request.

        Raises:
            InvalidRequest: the request is wrong, or asks for what the model or engine cannot do.
        """
        request: ChatRequest | CompletionRequest
        is_chat = call.op is Op.CHAT
        with refusing_deep_nesting():
            request = parse_chat(call.body, images=self.sees) if is_chat else parse_completion(call.body)
        refuse_unsupported(request, self._honoured, self._engine)
        return request

    def make(
        self, call: Call, request: ChatRequest | CompletionRequest, created: int, images: Items[Image] = ()
    ) -> Job:
        """Make what was read ready.

        Args:
            call: where it was read from.
            request: what was read.
            created: epoch seconds, for the answer.
            images: those of the messages, in order.

        Raises:
            InvalidRequest: the request is wrong, or asks for what the model or engine cannot do.
        """
        with refusing_deep_nesting():
            if isinstance(request, ChatRequest):
                return self._chat(call, request, created, images)
            return self._completion(call, request, created)

    def _chat(self, call: Call, request: ChatRequest, created: int, images: Items[Image]) -> Job:
        if request.active_tools and self._tool_form is None:
            has_some = self._template is not None and "tools" in self._template.variables
            why = "writes tool calls in a form that is not known here" if has_some else "does not write tool calls"
            raise UnsupportedParameter(f"this model {why}; leave 'tools' out", param="tools")
        prompt = self.chat_prompt(request, images)
        writer = ChatWriter(
            f"chatcmpl-{request.request_id or call.request_id}",
            call.model or request.model,
            created,
            include_usage=request.include_usage,
        )
        reasoning = self._reasoning
        # Thoughts that the answer goes on with are like those that a prompt has just opened.
        lead = reasoning.start if reasoning and reasoning.is_open(request.begun) else prompt.text
        form = self._tool_form if request.active_tools else None
        tools = read_tools(request.active_tools or ())
        several = self._calls_several if request.parallel_tool_calls is None else request.parallel_tool_calls
        single = not several or isinstance(request.tool_choice, dict)

        def new_text(_prompt: Prompt, sampling: Sampling) -> AnswerText:
            return AnswerText(
                self._tokenizer.detokenizer(),
                request.stop_strings,
                min_tokens=sampling.min_tokens,
                reasoning=reasoning.splitter(lead) if reasoning else None,
                tools=form.parser(lambda: new_call_id(form), tools, single=single) if form else None,
            )

        answer = ChatAnswer(writer, self._tokenizer, with_logprobs=bool(request.logprobs))
        job = self._job(request, [prompt], new_text, answer, eager=bool(form) and single)
        calls = None
        if form is not None:
            forced = request.tool_choice == "required" or isinstance(request.tool_choice, dict)
            calls = CallRules(form=form, tools=_callable(request, tools), forced=forced, single=single)
        job.grammar = answer_grammar(request.structure, calls, reasoning, lead)
        _check_grammar(request, job.grammar)
        return job

    def _completion(self, call: Call, request: CompletionRequest, created: int) -> Job:
        prompts = completion_prompts(request, self._tokenizer, self._limits)
        writer = CompletionWriter(
            f"cmpl-{request.request_id or call.request_id}",
            call.model or request.model,
            created,
            include_usage=request.include_usage,
        )

        kind = NoText if request.max_tokens == 0 else AnswerText

        def new_text(_prompt: Prompt, sampling: Sampling) -> AnswerText:
            return kind(self._tokenizer.detokenizer(), request.stop_strings, min_tokens=sampling.min_tokens)

        # The engine's thread fills these lists while it reads the prompts, and the answer shows them.
        scored: list[list[Candidates | None]] = [[] for _ in range(len(prompts) * request.choices)]
        echoed = [(prompts[index // request.choices], found) for index, found in enumerate(scored)]
        answer = CompletionAnswer(
            writer,
            self._tokenizer,
            with_logprobs=request.logprobs is not None,
            echoed=echoed if request.echo else (),
        )
        job = self._job(request, prompts, new_text, answer, eager=False)
        job.grammar = answer_grammar(request.structure, None, None, "")
        _check_grammar(request, job.grammar)
        if request.echo and request.logprobs is not None:
            job.prompt_candidates = scored
        return job

    def _job(
        self,
        request: GenerationRequest,
        prompts: list[Prompt],
        new_text: Callable[[Prompt, Sampling], AnswerText],
        answer: Answer,
        *,
        eager: bool,
    ) -> Job:
        return Job(
            prompts=prompts,
            samplings=[sampling_for(request, prompt, self._limits) for prompt in prompts],
            choices=request.choices,
            stream=bool(request.stream),
            include_usage=request.include_usage,
            eager=eager or bool(request.stream or request.stop_strings),
            new_text=new_text,
            answer=answer,
        )


def _callable(request: ChatRequest, tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
    """The tools that may be called: one where the request names it."""
    choice = request.tool_choice
    if not isinstance(choice, dict):
        return tools
    return tuple(tool for tool in tools if tool.name == choice["function"]["name"])


def _check_grammar(request: GenerationRequest, grammar: Grammar | None) -> None:
    """A grammar says where an answer ends; nothing else can.

    Raises:
        InvalidRequest: the request wants both.
    """
    if grammar is None:
        return
    for name in ("min_tokens", "ignore_eos"):
        if getattr(request, name):
            raise InvalidRequest(
                f"{name!r} cannot be combined with {grammar.param!r}, which says where the answer ends", param=name
            )
