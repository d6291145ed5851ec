"""A request made ready: checked, tokenized, with a writer for its answer."""

from collections.abc import Callable
from collections.abc import Set as AbstractSet

import msgspec

from xinfer.engines.base import Call
from xinfer.engines.token_engine.answers import Answer, ChatAnswer, CompletionAnswer, new_call_id
from xinfer.engines.token_engine.prompts import Limits, Prompt, chat_prompt, completion_prompts, sampling_for
from xinfer.engines.token_engine.sequence import Candidates
from xinfer.engines.token_engine.text import AnswerText
from xinfer.engines.token_engine.tokenizer import Tokenizer
from xinfer.errors import UnsupportedParameter
from xinfer.generation.chat_template import ChatTemplate
from xinfer.generation.reasoning import ReasoningSplitter, has_reasoning
from xinfer.generation.sampling import Sampling
from xinfer.generation.tool_calls import ToolCallParser, has_tool_calls
from xinfer.ops import Op
from xinfer.protocols.chat import ChatWriter, parse_chat
from xinfer.protocols.completions import CompletionWriter, parse_completion
from xinfer.protocols.decoding import GenerationRequest, refuse_unsupported


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
    prompt_candidates: list[list[Candidates | None]] = []
    """For each choice, filled while it runs; only where the prompt's log probabilities are asked for."""


class JobMaker:
    """Makes jobs for one model."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        limits: Limits,
        honoured: AbstractSet[str],
        engine: str,
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._limits = limits
        self._honoured = honoured
        self._engine = engine
        source = template.source if template else ""
        self._thinks = template is not None and has_reasoning(source, tokenizer.vocabulary)
        self._calls_tools = has_tool_calls(source)

    def make(self, call: Call, created: int) -> Job:
        """Read a request.

        Args:
            call: the request.
            created: epoch seconds, for the answer.

        Raises:
            InvalidRequest: the request is wrong, or asks for what the model or engine cannot do.
        """
        return self._chat(call, created) if call.op is Op.CHAT else self._completion(call, created)

    def _chat(self, call: Call, created: int) -> Job:
        request = parse_chat(call.body)
        refuse_unsupported(request, self._honoured, self._engine)
        if request.active_tools and not self._calls_tools:
            raise UnsupportedParameter("this model does not write tool calls; leave 'tools' out", param="tools")
        prompt = chat_prompt(request, self._template, self._tokenizer)
        writer = ChatWriter(
            f"chatcmpl-{request.request_id or call.request_id}",
            call.model or request.model,
            created,
            include_usage=request.include_usage,
        )
        tools = bool(request.active_tools)
        single = request.parallel_tool_calls is False

        def new_text(prompt: Prompt, sampling: Sampling) -> AnswerText:
            return AnswerText(
                self._tokenizer.detokenizer(),
                request.stop_strings,
                min_tokens=sampling.min_tokens,
                reasoning=ReasoningSplitter(prompt.text) if self._thinks else None,
                tools=ToolCallParser(new_call_id, single=single) if tools else None,
            )

        answer = ChatAnswer(writer, self._tokenizer, with_logprobs=bool(request.logprobs))
        return self._job(request, [prompt], new_text, answer, eager=tools and single)

    def _completion(self, call: Call, created: int) -> Job:
        request = parse_completion(call.body)
        refuse_unsupported(request, self._honoured, self._engine)
        prompts = completion_prompts(request, self._tokenizer, self._limits)
        writer = CompletionWriter(
            f"cmpl-{request.request_id or call.request_id}",
            call.model or request.model,
            created,
            include_usage=request.include_usage,
        )

        def new_text(_prompt: Prompt, sampling: Sampling) -> AnswerText:
            return AnswerText(self._tokenizer.detokenizer(), request.stop_strings, min_tokens=sampling.min_tokens)

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
