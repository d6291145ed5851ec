import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from xinfer.devices import Grant
from xinfer.engines.base import (
    JSON_HEAD,
    SSE_HEAD,
    Available,
    Call,
    EngineMemory,
    Frame,
    Load,
    Match,
    Progress,
    parse_options,
)
from xinfer.engines.echo.gang import Gang
from xinfer.engines.echo.hashing import embed, rerank
from xinfer.engines.echo.pace import Metronome
from xinfer.engines.echo.standing import ChangesOfEcho
from xinfer.engines.echo.text import Answer, last_user_text, tokens_of
from xinfer.errors import ContextOverflow, EngineFailed, InvalidRequest
from xinfer.ops import Op
from xinfer.protocols.answers import Usage
from xinfer.protocols.chat import ChatChoice, ChatWriter, parse_chat
from xinfer.protocols.completions import CompletionChoice, CompletionWriter, parse_completion
from xinfer.protocols.decoding import refuse_unsupported
from xinfer.spec import Format, ModelSpec

# Sampling parameters are honoured: an answer of probability one is the same at every temperature.
HONOURED = frozenset(
    {
        "n",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "stop",
    }
)


class EchoOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Switches. Times in seconds; the counters count requests of one process."""

    rate: Annotated[float, Meta(ge=0)] = 0.0
    """Tokens per second and stream; 0 means as fast as possible."""
    context_length: Annotated[int, Meta(ge=1)] = 32768
    dimensions: Annotated[int, Meta(ge=1, le=65536)] = 64
    load_delay_s: Annotated[float, Meta(ge=0)] = 0.0
    """Slow start."""
    fail_load: str = ""
    """Fail to load, with this reason."""
    refuse_load: str = ""
    """Say while loading that this option of the launch is wrong, as engines do that read their options themselves."""
    fail_at: dict[str, str] = {}
    """What fails while it runs, and why: "sleep", "wake", or to load the adapter of a name."""
    exit_on_load: int | None = None
    """End the process with this status while loading, as a crash in native code would."""
    die_after: Annotated[int, Meta(ge=0)] | None = None
    """Kill the process (SIGKILL) when so many requests have begun and the next one comes."""
    die_after_tokens: Annotated[int, Meta(ge=0)] | None = None
    """Kill the process when so many tokens were streamed, in the middle of an answer."""
    hang_after: Annotated[int, Meta(ge=0)] | None = None
    """Answer so many requests, and the following ones never."""
    fail_after: Annotated[int, Meta(ge=0)] | None = None
    """Raise in every request after so many."""
    break_after: Annotated[int, Meta(ge=0)] | None = None
    """The same, and say that the engine is broken for good, so that its replica is started anew."""
    leak_mib: Annotated[int, Meta(ge=0)] = 0
    """Take so many MiB of main memory with every request, and never give them back."""


class EchoEngine(ChangesOfEcho):
    """See the package."""

    name: ClassVar[str] = "echo"
    title: ClassVar[str] = "repeats its input; for tests, benchmarks and trying a cluster"
    ops: ClassVar[frozenset[Op]] = frozenset({Op.CHAT, Op.COMPLETION, Op.EMBEDDING, Op.RERANK})
    formats: ClassVar[frozenset[Format]] = frozenset({Format.NONE})
    install: ClassVar[str] = ""
    preference: ClassVar[int] = 0
    Options: ClassVar[type[EchoOptions]] = EchoOptions
    memory: ClassVar[EngineMemory] = EngineMemory(cpu_mib=128, accelerator_mib=0)

    @classmethod
    def available(cls) -> Available:
        """Always."""
        return Available(True, version="1")

    @classmethod
    def accepts(cls, spec: ModelSpec) -> Match:
        """Models without weights."""
        if spec.format is Format.NONE:
            return Match(True)
        return Match(False, "echo loads no weights; launch the model named 'echo'")

    @classmethod
    def accepts_gang(cls, options: Mapping[str, Any], size: int) -> Match:  # noqa: ARG003  the contract
        """On any number of workers: they only have to know each other."""
        return Match(True)

    @classmethod
    def gang_environment(cls, host: str) -> Mapping[str, str]:  # noqa: ARG003
        """None: the rendezvous says it all."""
        return {}

    def __init__(self) -> None:
        super().__init__()
        self._options = EchoOptions()
        self._metronome = Metronome(0.0)
        self._requests = 0
        self._running = 0
        self._tokens = 0
        self._failure = ""
        self._leaked: list[bytearray] = []
        self._gang: Gang | None = None

    async def load(self, spec: ModelSpec, options: dict[str, Any], grant: Grant, progress: Progress) -> None:  # noqa: ARG002  the contract
        """Nothing to load, but it can take its time, fail or crash; and there may be others to wait for."""
        self._options = parse_options(EchoOptions, options, self.name)
        self._metronome = Metronome(self._options.rate)
        self.failures = self._options.fail_at
        steps = 20
        for step in range(steps if self._options.load_delay_s else 0):
            progress("loading", step / steps)
            await asyncio.sleep(self._options.load_delay_s / steps)
        if self._options.exit_on_load is not None:
            os._exit(self._options.exit_on_load)
        if self._options.fail_load:
            raise EngineFailed(self._options.fail_load)
        if self._options.refuse_load:
            raise InvalidRequest("echo was told to refuse this", param=self._options.refuse_load)
        if grant.seat is not None:
            self._gang = Gang(grant.seat, grant.lease.generation)
            await self._gang.gather(lambda stage: progress(stage, 0.9))
        progress("loading", 1.0)

    def serve(self, call: Call) -> AsyncGenerator[Frame, None]:
        """Answer one request."""
        if call.op is Op.CHAT:
            return self._chat(call)
        return self._completion(call) if call.op is Op.COMPLETION else self._vectors(call)

    def load_report(self) -> Load:
        """Requests under way; nothing waits."""
        return Load(running=self._running)

    def failure(self) -> str:
        """What ``break_after`` asked for, or that the gang is not complete any more."""
        return self._failure or (self._gang.failure if self._gang is not None else "")

    async def close(self) -> None:
        """Let go of whoever waits."""
        self._metronome.stop()
        if self._gang is not None:
            await self._gang.close()

    @contextlib.asynccontextmanager
    async def _under_way(self) -> AsyncGenerator[None, None]:
        """Counts a request, unless it is one to misbehave at."""
        await self._misbehave()
        self._requests += 1
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    async def _misbehave(self) -> None:
        options, seen = self._options, self._requests
        if self.asleep:
            raise RuntimeError("echo was called while it sleeps")
        if self._gang is not None and self._gang.failure:
            raise EngineFailed(self._gang.failure)
        if options.die_after is not None and seen >= options.die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if options.hang_after is not None and seen >= options.hang_after:
            await asyncio.get_running_loop().create_future()
        if options.fail_after is not None and seen >= options.fail_after:
            raise RuntimeError("echo was told to fail")
        if options.break_after is not None and seen >= options.break_after:
            self._failure = "echo was told to break"
            raise RuntimeError(self._failure)
        if options.leak_mib:
            self._leaked.append(bytearray(b"\1") * (options.leak_mib << 20))  # zeros would take none until written

    async def _chat(self, call: Call) -> AsyncGenerator[Frame, None]:
        async with self._under_way():
            request = parse_chat(call.body)
            refuse_unsupported(request, HONOURED, self.name)
            prompt = sum(len(tokens_of(last_user_text([message]))) for message in request.messages)
            self._check_context(prompt, request.token_limit, "messages")
            said = last_user_text(request.messages)
            text = f"{call.model}: {said}" if call.model in self.adapters else said
            answer = Answer(text, request.token_limit, request.stop_strings)
            choices = request.choices
            usage = Usage(prompt, answer.completion_tokens * choices)
            writer = ChatWriter(
                f"chatcmpl-{call.request_id}", call.model, int(time.time()), include_usage=request.include_usage
            )
            if not request.stream:
                await self._pass_time(answer)
                yield JSON_HEAD
                yield writer.response(
                    [ChatChoice(text=answer.text, finish_reason=answer.finish_reason)] * choices, usage
                )
                return
            yield SSE_HEAD
            for choice in range(choices):
                yield writer.role(choice=choice)
            for piece in answer:
                await self._metronome.beat()
                self._count_token()
                for choice in range(choices):
                    yield writer.text(piece, choice=choice)
            end = b"".join(writer.finish(answer.finish_reason, choice=choice) for choice in range(choices))
            yield end + (writer.usage(usage) if request.include_usage else b"") + writer.done

    async def _completion(self, call: Call) -> AsyncGenerator[Frame, None]:
        async with self._under_way():
            request = parse_completion(call.body)
            refuse_unsupported(request, HONOURED, self.name)
            texts = [prompt if isinstance(prompt, str) else " ".join(map(str, prompt)) for prompt in request.prompts]
            counts = [len(tokens_of(text)) for text in texts]
            self._check_context(max(counts), request.token_limit, "prompt")
            answers = [Answer(text, request.token_limit, request.stop_strings) for text in texts]
            answers = [answer for answer in answers for _ in range(request.choices)]
            usage = Usage(sum(counts), sum(answer.completion_tokens for answer in answers))
            writer = CompletionWriter(
                f"cmpl-{call.request_id}", call.model, int(time.time()), include_usage=request.include_usage
            )
            if not request.stream:
                for answer in answers:
                    await self._pass_time(answer)
                yield JSON_HEAD
                yield writer.response(
                    [CompletionChoice(text=a.text, finish_reason=a.finish_reason) for a in answers], usage
                )
                return
            yield SSE_HEAD
            for choice, answer in enumerate(answers):
                for piece in answer:
                    await self._metronome.beat()
                    self._count_token()
                    yield writer.text(piece, choice=choice)
                yield writer.finish(answer.finish_reason, choice=choice)
            yield (writer.usage(usage) if request.include_usage else b"") + writer.done

    async def _vectors(self, call: Call) -> AsyncGenerator[Frame, None]:
        async with self._under_way():
            body = rerank(call) if call.op is Op.RERANK else embed(call, self._options.dimensions)
            yield JSON_HEAD
            yield body

    def _check_context(self, prompt: int, limit: int | None, param: str) -> None:
        room = self._options.context_length
        if prompt + (limit or 0) > room:
            asked = f"{prompt} tokens in '{param}'" + (f" and {limit} in the completion" if limit else "")
            raise ContextOverflow(
                f"this model's context has {room} tokens; you asked for {prompt + (limit or 0)} ({asked})",
                param=param,
            )

    async def _pass_time(self, answer: Answer) -> None:
        """An answer that is not streamed takes as long as one that is."""
        if self._options.rate > 0 or self._options.die_after_tokens is not None:
            for _ in answer:
                await self._metronome.beat()
                self._count_token()

    def _count_token(self) -> None:
        self._tokens += 1
        limit = self._options.die_after_tokens
        if limit is not None and self._tokens > limit:
            os.kill(os.getpid(), signal.SIGKILL)
