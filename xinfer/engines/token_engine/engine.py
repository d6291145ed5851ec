"""``TokenEngine``: serves chat and completions with a library that continues token sequences."""

import abc
import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from xinfer.devices import Grant
from xinfer.engines import base
from xinfer.engines.base import JSON_HEAD, SSE_HEAD, Available, Call, Frame, Load, Match, parse_options
from xinfer.engines.token_engine.constraint import GrammarCompiler
from xinfer.engines.token_engine.job import Job, JobMaker
from xinfer.engines.token_engine.loop import Runner, StepLoop
from xinfer.engines.token_engine.prompts import Limits
from xinfer.engines.token_engine.request import RunningRequest
from xinfer.engines.token_engine.text import Piece
from xinfer.engines.token_engine.tokenizer import Tokenizer
from xinfer.errors import NotReady
from xinfer.generation.chat_template import ChatTemplate
from xinfer.ops import Op
from xinfer.spec import Adapter, Format, ModelSpec

HONOURED = frozenset(
    {
        "n",
        "max_tokens",
        "max_completion_tokens",
        "min_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "seed",
        "stop",
        "stop_token_ids",
        "ignore_eos",
        "logprobs",
        "top_logprobs",
        "echo",
        "tools",
        "tool_choice",
        "strict_tools",
        "parallel_tool_calls",
        "structure",
        "chat_template_kwargs",
        "enable_thinking",
        "reasoning_effort",
    }
)
"""What every token engine honours when its runner honours all of ``Sampling``."""

LARGE_BODY = 16 * 1024
"""Bodies of so many bytes are rendered and tokenized in a thread, because that takes milliseconds."""


class LoadedModel(msgspec.Struct, frozen=True, kw_only=True):
    """What ``TokenEngine.open_model`` gives."""

    runner: Runner
    tokenizer: Tokenizer
    template: ChatTemplate | None
    limits: Limits
    read_adapter: Callable[[Adapter], object] | None = None
    """Makes a LoRA adapter ready for the runner, as ``Sequence.adapter``; None: it takes none. Works in any thread."""
    control_tokens: frozenset[str] = frozenset()
    """Marks that steer the model when a template writes them, and are mere text in what clients write."""


OptionsT = TypeVar("OptionsT", bound=msgspec.Struct)


class TokenEngine(abc.ABC, Generic[OptionsT]):
    """An engine for models that continue text. Subclasses say how to load a model.

    One thread runs the model; ``serve`` runs on the event loop and only turns tokens into bytes.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    ops: ClassVar[frozenset[Op]] = frozenset({Op.CHAT, Op.COMPLETION})
    formats: ClassVar[frozenset[Format]]
    install: ClassVar[str]
    preference: ClassVar[int]
    Options: ClassVar[type[msgspec.Struct]]
    honoured: ClassVar[frozenset[str]] = HONOURED

    @classmethod
    @abc.abstractmethod
    def available(cls) -> Available:
        """See ``engines.base.Engine``."""

    @classmethod
    @abc.abstractmethod
    def accepts(cls, spec: ModelSpec) -> Match:
        """See ``engines.base.Engine``."""

    @abc.abstractmethod
    def open_model(self, spec: ModelSpec, options: OptionsT, grant: Grant, progress: base.Progress) -> LoadedModel:
        """Import the library and load the model. Called in a thread of its own; may take minutes.

        Raises:
            Exception: anything; its text is the reason that the user reads.
        """

    def __init__(self) -> None:
        self._jobs: JobMaker | None = None
        self._steps: StepLoop | None = None
        self._grammars: GrammarCompiler | None = None

    async def load(self, spec: ModelSpec, options: dict[str, Any], grant: Grant, progress: base.Progress) -> None:
        """Load the model in a thread, and start the thread that runs it."""
        parsed: Any = parse_options(self.Options, options, self.name)
        model = await asyncio.to_thread(self.open_model, spec, parsed, grant, progress)
        self._jobs = JobMaker(
            model.tokenizer,
            model.template,
            model.limits,
            self.honoured,
            self.name,
            control_tokens=model.control_tokens,
        )
        grammars = GrammarCompiler(model.tokenizer, model.limits.stop_ids)
        await asyncio.to_thread(grammars.prepare)
        self._grammars = grammars
        self._steps = StepLoop(model.runner, name=f"{self.name}-steps")

    async def serve(self, call: Call) -> AsyncGenerator[Frame, None]:
        """Answer one chat or completion request. Closing the generator stops the work for it before the next step.

        Raises:
            InvalidRequest: the request is wrong, or asks for what the model cannot do.
            EngineFailed: the thread that runs the model has died.
        """
        if self._jobs is None or self._steps is None or self._grammars is None:
            raise NotReady("the model is not loaded yet", retry_after=1)
        if len(call.body) < LARGE_BODY:
            job = self._jobs.make(call, int(time.time()))
        else:
            job = await asyncio.to_thread(self._jobs.make, call, int(time.time()))
        job.adapter = self.adapter_of(call.model)
        if job.grammar is not None:
            known = self._grammars.cached(job.grammar)
            job.constraints = known or await asyncio.to_thread(self._grammars.compile, job.grammar)
        request = RunningRequest(job)
        steps = self._steps
        steps.submit(request.sequences)
        try:
            if job.stream:
                async for frame in _stream(job, request, steps):
                    yield frame
            else:
                body = await _whole(job, request, steps)
                yield JSON_HEAD
                yield body
        finally:
            steps.cancel(request.unfinished())

    def adapter_of(self, model: str) -> object:  # noqa: ARG002  for engines that have some
        """What changes the model for calls that ask for ``model``; None: nothing."""
        return None

    def load_report(self) -> Load:
        """How many requests run and wait, and how full the cache is."""
        return Load() if self._steps is None else self._steps.report()

    def failure(self) -> str:
        """Why the thread that runs the model has died."""
        return "" if self._steps is None else self._steps.failure

    async def close(self) -> None:
        """End the thread; requests under way fail. Memory goes with the engine object."""
        steps, self._steps, self._jobs, self._grammars = self._steps, None, None, None
        if steps is not None:
            await asyncio.to_thread(steps.close)


async def _whole(job: Job, request: RunningRequest, steps: StepLoop) -> bytes:
    """The body of an answer that does not stream."""
    wholes = [Piece() for _ in request.sequences]
    while request.is_open:
        for choice, piece in await request.next_pieces():
            wholes[choice].extend(piece)
        _cancel_superfluous(request, steps)
    return job.answer.whole(wholes, request.usage())


async def _stream(job: Job, request: RunningRequest, steps: StepLoop) -> AsyncGenerator[Frame, None]:
    """Server-sent events: all that one hand-over of tokens gives goes out as one frame."""
    answer = job.answer
    opened = False
    while request.is_open:
        pieces = await request.next_pieces()
        _cancel_superfluous(request, steps)
        events = [answer.chunk(choice, piece) for choice, piece in pieces]
        if not opened:
            opened = True
            yield SSE_HEAD
            events[:0] = [answer.opening(choice) for choice in range(len(request.sequences))]
        if not request.is_open:
            if job.include_usage:
                events.append(answer.usage(request.usage()))
            events.append(answer.done)
        frame = b"".join(events)
        if frame:
            yield frame


def _cancel_superfluous(request: RunningRequest, steps: StepLoop) -> None:
    """Stop sequences that a stop string has ended, which the thread does not know about."""
    superfluous = request.superfluous()
    if superfluous:
        steps.cancel(superfluous)
