"""``TokenEngine``: serves chat and completions with a library that continues token sequences."""

import abc
import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from xinfer.devices import Grant
from xinfer.engines import base
from xinfer.engines.base import JSON_HEAD, SSE_HEAD, Available, Call, Frame, Load, Match, parse_options
from xinfer.engines.media import Image, ImageLoader
from xinfer.engines.token_engine.constraint import GrammarCompiler
from xinfer.engines.token_engine.job import Job, JobMaker
from xinfer.engines.token_engine.loop import Runner, StepLoop
from xinfer.engines.token_engine.pictures import ImageReader
from xinfer.engines.token_engine.prompts import Limits
from xinfer.engines.token_engine.request import RunningRequest
from xinfer.engines.token_engine.text import Piece
from xinfer.engines.token_engine.tokenization import TOKEN_OPS, Tokenization
from xinfer.engines.token_engine.tokenizer import Tokenizer
from xinfer.errors import NotReady
from xinfer.generation.chat_template import ChatTemplate
from xinfer.ops import Op
from xinfer.protocols.chat import ChatRequest
from xinfer.protocols.completions import CompletionRequest
from xinfer.settings import Settings
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
        "add_generation_prompt",
        "continue_final_message",
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
    image_reader: ImageReader | None = None
    """None: the model sees nothing."""
    beginning: tuple[int, ...] = ()
    """Tokens that the model wants before every prompt, and that its chat template leaves to others."""
    control_tokens: frozenset[str] = frozenset()
    """Marks that steer the model when a template writes them, and are mere text in what clients write."""


OptionsT = TypeVar("OptionsT", bound=msgspec.Struct)


class TokenEngine(abc.ABC, Generic[OptionsT]):
    """An engine for models that continue text. Subclasses say how to load a model.

    One thread runs the model; ``serve`` runs on the event loop and only turns tokens into bytes.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    ops: ClassVar[frozenset[Op]] = frozenset({Op.CHAT, Op.COMPLETION}) | TOKEN_OPS
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
        self._tokenization: Tokenization | None = None
        self._images: ImageLoader | None = None
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
            reader=model.image_reader,
            beginning=model.beginning,
        )
        self._tokenization = Tokenization(self._jobs, model.tokenizer, model.limits)
        self._images = ImageLoader.of(Settings.from_env())
        grammars = GrammarCompiler(model.tokenizer, model.limits.stop_ids)
        await asyncio.to_thread(grammars.prepare)
        self._grammars = grammars
        self._steps = StepLoop(model.runner, name=f"{self.name}-steps")

    async def serve(self, call: Call) -> AsyncGenerator[Frame, None]:
        """Answer one request. Closing the generator stops the work for it before the next step.

        Raises:
            InvalidRequest: the request is wrong, or asks for what the model cannot do.
            EngineFailed: the thread that runs the model has died.
        """
        if self._jobs is None or self._steps is None or self._grammars is None:
            raise NotReady("the model is not loaded yet", retry_after=1)
        if call.op in TOKEN_OPS:
            body = await self._tokenize(call)
            yield JSON_HEAD
            yield body
            return
        jobs, steps, grammars = self._jobs, self._steps, self._grammars
        is_large = len(call.body) >= LARGE_BODY
        asked = await asyncio.to_thread(jobs.read, call) if is_large else jobs.read(call)
        async with self._turn_of(asked):
            job = await self._job(jobs, call, asked)
            job.adapter = self.adapter_of(call.model)
            if job.grammar is not None:
                known = grammars.cached(job.grammar)
                job.constraints = known or await asyncio.to_thread(grammars.compile, job.grammar)
            request = RunningRequest(job)
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

    async def _tokenize(self, call: Call) -> bytes:
        """Tokens of a text or a chat, or the other way round: nothing that the model has to run for."""
        service = self._tokenization
        assert service is not None, "it is made together with the jobs"
        if call.op is Op.DETOKENIZE:
            return await asyncio.to_thread(service.text, call.body)
        request, chat = await asyncio.to_thread(service.read, call.body)
        images = [] if chat is None else await self._images_of(chat)
        return await asyncio.to_thread(service.answer, request, chat, images)

    def _turn_of(self, request: ChatRequest | CompletionRequest) -> contextlib.AbstractAsyncContextManager[None]:
        """Requests with images take turns."""
        if isinstance(request, ChatRequest) and request.images:
            return self._loader().turn()
        return contextlib.nullcontext()

    async def _job(self, jobs: JobMaker, call: Call, request: ChatRequest | CompletionRequest) -> Job:
        """Get the images that a request refers to, and make it ready."""
        created = int(time.time())
        images = await self._images_of(request)
        if images or len(call.body) >= LARGE_BODY:
            return await asyncio.to_thread(jobs.make, call, request, created, images)
        return jobs.make(call, request, created)

    async def _images_of(self, request: ChatRequest | CompletionRequest) -> list[Image]:
        parts = request.images if isinstance(request, ChatRequest) else []
        return await self._loader().load(parts) if parts else []

    def _loader(self) -> ImageLoader:
        if self._images is None:
            raise NotReady("the model is being closed", retry_after=1)
        return self._images

    def adapter_of(self, model: str) -> object:  # noqa: ARG002  for engines that have some
        """What changes the model for calls that ask for ``model``; None: nothing."""
        return None

    def load_report(self) -> Load:
        """How many requests run and wait, and how full the cache is."""
        if self._steps is None or self._images is None:
            return Load()
        load = self._steps.report()
        waiting = self._images.waiting
        return msgspec.structs.replace(load, queued=load.queued + waiting) if waiting else load

    def failure(self) -> str:
        """Why the thread that runs the model has died."""
        return "" if self._steps is None else self._steps.failure

    async def close(self) -> None:
        """End the thread; requests under way fail. Memory goes with the engine object."""
        steps, self._steps, self._jobs, self._grammars = self._steps, None, None, None
        images, self._images = self._images, None
        if images is not None:
            await images.close()
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
