"""The contract between a replica and its engine.

An engine lives in the replica's process, and only there is its library imported: the module of an engine must be
importable without it, because the supervisor and the worker ask ``accepts`` and ``available`` of every engine.

``serve`` yields one ``Head`` and then ``bytes``: body chunks exactly as the client's socket will carry them (for a
stream: whole SSE events). To end, it returns; to fail, it raises. An error before the Head becomes a proper HTTP
status, one after it an SSE error event, so an engine yields its Head only when the first chunk is ready. It is closed
(``aclose``) when the client is gone, and must stop working for the request then.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

import msgspec

from xinfer.devices import Grant
from xinfer.errors import InvalidRequest
from xinfer.ops import Op
from xinfer.spec import Adapter, Format, ModelSpec


class Available(msgspec.Struct, frozen=True):
    """Whether an engine can be used in this environment; if not, ``reason`` says what to install."""

    ok: bool
    reason: str = ""
    version: str = ""
    cpu_only: str = ""
    """Why it computes on the CPU here even if there is an accelerator; empty: it does not."""
    packages: tuple[str, ...] = ()
    """Of those that only some of its models need (``NeedsPackages``), the ones that are here."""


class Match(msgspec.Struct, frozen=True):
    """Whether an engine can run a model; if not, ``reason`` is something the user can act on."""

    ok: bool
    reason: str = ""


class Requirements(msgspec.Struct, frozen=True, kw_only=True):
    """What an environment made for an engine holds, as requirement specifiers that pip and uv read.

    xinfer's own requirements come on top, so that a replica can run in it.
    """

    packages: tuple[str, ...]
    """Installed with everything that they need."""
    without_dependencies: tuple[str, ...] = ()
    """Installed as they are: what they say they need cannot be had together, or not for this kind of machine."""
    exclude: tuple[str, ...] = ()
    """Names of packages that stay out, whoever asks for them."""
    build_settings: tuple[str, ...] = ()
    """For packages that are compiled here: ``PACKAGE:KEY=VALUE``, told to the one that builds it."""
    imports: tuple[str, ...] = ()
    """Modules whose import shows that it works."""
    accelerator: Literal["any", "cpu", "cuda"] = "any"
    """The machines that it is for; "cpu" are those without a card."""
    disk_mib: int = 1024
    """What it takes on disk, roughly; looked for before anything is downloaded."""


class Load(msgspec.Struct, frozen=True):
    """How busy a replica is. Travels with every batch of frames."""

    running: int = 0
    queued: int = 0
    tokens_queued: int = 0
    kv_usage: float = 0.0
    """0..1"""
    tokens_per_s: float = 0.0


class Call(msgspec.Struct, frozen=True):
    """One request, as it came: ``body`` is the client's bytes, undecoded."""

    request_id: str
    op: Op
    body: bytes
    model: str = ""
    """The model_uid, for engines that echo it in their answers."""
    headers: tuple[tuple[str, str], ...] = ()


class Head(msgspec.Struct, frozen=True):
    """The start of an answer. Header names are lower-case bytes, as ASGI wants them."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]


Frame = Head | bytes

JSON_HEAD = Head(200, ((b"content-type", b"application/json"),))
SSE_HEAD = Head(200, ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")))

Progress = Callable[[str, float], None]
"""``progress(stage, fraction)``: what is being done, and how far it is, 0..1. May be called from any thread."""


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of an engine that has none."""


class EngineMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine takes beside the weights, and which options of a launch change that. For estimates.

    An engine has it as the class attribute ``memory``. Options are named as in its ``Options``; of several names for
    one thing, the first that a launch carries counts. MiB and tokens.
    """

    cpu_mib: int = 768
    """Its process with its libraries, before any weights, where the model is in main memory."""
    accelerator_mib: int = 256
    """Its workspaces and captured graphs on each accelerator, beside what the driver takes for a process."""
    dtype_options: tuple[str, ...] = ()
    """The type that weights are loaded in ("float16"); "auto" is like saying nothing."""
    cpu_dtype: str = ""
    """What weights become on a CPU where nothing is said; empty: as the files have them."""
    context_options: tuple[str, ...] = ()
    """The longest sequence. Where nothing is said, it is what the model was made for."""
    needs_whole_context: bool = True
    """It starts only if its cache has room for one sequence of the whole context; False: it serves shorter ones."""
    shared_context: bool = False
    """Its cache is divided between its sequences: where their number and their length are both asked for, it has room
    for all of them. Where they are not, it makes do with what it is given."""
    cache_options: tuple[str, ...] = ()
    """Of such a cache, the tokens of all sequences together (llama.cpp's n_ctx)."""
    cache_step: int = 1
    """The part of each sequence is a multiple of so many tokens."""
    concurrency_options: tuple[str, ...] = ()
    """How many sequences run at once."""
    concurrency: int = 1
    """The number worth planning for where nothing is said."""
    kv_dtype_options: tuple[str, ...] = ()
    """The type of cached keys, and of values unless the next ones are named."""
    value_dtype_options: tuple[str, ...] = ()
    """The type of cached values, where it is chosen apart from that of keys."""
    kv_dtype: str = ""
    """Their type where nothing is said; empty: that of the weights."""
    windowed_cache: bool = True
    """Layers with a sliding window keep no more than the window."""
    latent_cache: bool = True
    """Multi-head latent attention keeps the latent, rather than the keys and values made of it."""
    batch_token_options: tuple[str, ...] = ()
    """Tokens in one step of the model."""
    batch_tokens: int = 2048
    cpu_batch_tokens: int = 0
    """The same on a CPU; 0: no different."""
    grows: bool = False
    """Its cache grows with use: a replica that had little to do shows less than what it may come to need."""
    quantized_keeps_dtype: bool = False
    """What is plain in quantized weights stays as the files have it where nothing is said, on a CPU too."""
    quantize_options: tuple[str, ...] = ()
    """The type that plain weights are quantized to while they are read ("int8", "nf4"); embeddings stay as they are."""
    unpacks: tuple[str, ...] = ()
    """Methods of quantization ("fp8") of which it makes plain weights of the model's own type as it reads them."""
    cpu_unpacks: tuple[str, ...] = ()
    """The same on a CPU."""
    cache_overhead: float = 0.0
    """What the cache takes beside its content, relative to that: copies while it grows, and what these leave free."""
    fills_budget: bool = False
    """It takes whatever it is given: what it is seen to use says nothing about what it needs."""


class Engine(Protocol):
    """What every engine does. See the module docstring for the rules of ``serve``."""

    name: ClassVar[str]
    title: ClassVar[str]
    """One line for people who choose an engine."""
    ops: ClassVar[frozenset[Op]]
    formats: ClassVar[frozenset[Format]]
    install: ClassVar[str]
    """The command that installs its library; empty when nothing is needed."""
    requirements: ClassVar[tuple[Requirements, ...]]
    """For an environment of its own: the first that is for this machine is taken; none: it cannot have one."""
    preference: ClassVar[int]
    """Where several engines accept a model, the highest available one is chosen."""
    accelerator_preference: ClassVar[int | None] = None
    """The same on accelerators. None, and engines that do not say: no different."""
    Options: ClassVar[type[msgspec.Struct]]
    """The engine keywords a launch may carry; a struct with ``forbid_unknown_fields``, but for engines that have more
    than we could name and check them as they load."""
    environment: ClassVar[Mapping[str, str]] = {}
    """Variables that its process starts with, unless the launch sets them."""
    sockets_variable: ClassVar[str] = ""
    """The variable that names a folder for the unix sockets between its processes: each replica gets one of its own,
    which is removed with it. Empty, and engines that do not say: it makes none, or removes them itself."""
    memory: ClassVar[EngineMemory] = EngineMemory()
    """How much memory it takes. Engines that do not say are counted with the defaults."""
    fileless: ClassVar[bool] = False
    """Its models have no files here, so that a launch may name any: it says what the model is with ``model_type``, and
    is placed on a CPU unless it says otherwise. Engines that do not say have files, or models in the catalog."""
    profiles_memory: ClassVar[bool] = False
    """While it loads, it measures the memory that is free and takes its share of that: a neighbour that starts at the
    same time would spoil the measurement. Engines that do not say are taken not to."""

    @classmethod
    def available(cls) -> Available:
        """Cheap: looks for the library, never imports it."""

    @classmethod
    def accepts(cls, spec: ModelSpec) -> Match:
        """Whether this engine can run the model."""

    async def load(self, spec: ModelSpec, options: dict[str, Any], grant: Grant, progress: Progress) -> None:
        """Make the model ready to serve. Long work belongs in a thread, so that the replica stays responsive.

        Raises:
            Exception: anything; its text is the reason that the user reads.
        """

    def serve(self, call: Call) -> AsyncIterator[Frame]:
        """Answer one request (an async generator). Many run at once."""

    def load_report(self) -> Load:
        """Current load; called for every batch, so it must cost next to nothing."""

    def failure(self) -> str:
        """Why it can serve no more; empty while it can. Its replica then ends, and is started again."""

    async def close(self) -> None:
        """End threads and child processes, give memory back."""


@runtime_checkable
class TakesAdapters(Protocol):
    """What an engine does besides, that serves LoRA adapters. A call asks for one by its name, as for a model."""

    @classmethod
    def options_with_adapters(cls, options: Mapping[str, Any], adapters: Sequence[Adapter]) -> dict[str, Any]:
        """The options of a launch, with what the engine has to be started with so that it takes these adapters."""

    @classmethod
    def accepts_adapter(cls, options: Mapping[str, Any], adapter: Adapter) -> Match:
        """Whether an engine that was started with these options takes one more adapter."""

    async def load_adapter(self, adapter: Adapter) -> None:
        """Serve it from now on. Not while the engine sleeps.

        Raises:
            Exception: anything; its text is the reason that the user reads.
        """

    async def unload_adapter(self, adapter: Adapter) -> None:
        """Serve it no more."""


@runtime_checkable
class Sleeps(Protocol):
    """What an engine does besides, that can give memory back and take it again without being loaded anew."""

    @classmethod
    def accepts_sleep(cls, options: Mapping[str, Any], level: int) -> Match:
        """Whether an engine that was started with these options can sleep so deep."""

    async def sleep(self, level: int) -> None:
        """Give memory back; the deeper, the more, and the longer it takes to wake up.

        Nothing is being served then, and nothing will be until ``wake``.

        Raises:
            Exception: anything; it is then still awake.
        """

    async def wake(self) -> None:
        """Take the memory again and be able to serve.

        Raises:
            Exception: anything; the process of the replica is then started anew.
        """


@runtime_checkable
class SpansWorkers(Protocol):
    """What an engine does besides, that serves one replica as a gang of processes on several workers.

    ``load`` gets a Grant with a ``seat``: the leader (rank 0) loads the model together with the others and serves,
    a follower's ``load`` returns when it has joined, and its ``serve`` is never called. Where the members find each
    other, the seat says. One that loses the others reports a ``failure``: then all of them are started again.
    """

    @classmethod
    def accepts_gang(cls, options: Mapping[str, Any], size: int) -> Match:
        """Whether an engine that is started with these options can run on so many workers."""

    @classmethod
    def gang_environment(cls, host: str) -> Mapping[str, str]:
        """Variables that each process of a gang starts with; ``host`` is where the others reach it."""


@runtime_checkable
class RunsRemoteCode(Protocol):
    """What an engine does besides, whose library can run Python code from a model's folder."""

    @classmethod
    def needs_remote_code(cls, spec: ModelSpec) -> bool:
        """Whether it knows the model's architecture from such code only. Looks at files, imports no library."""


@runtime_checkable
class NeedsPackages(Protocol):
    """What an engine does besides, that reads some models with packages which its environment need not have."""

    @classmethod
    def packages_for(cls, spec: ModelSpec, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Requirements of a model beyond those of the engine itself.

        Raises:
            InvalidRequest: the options make no sense for this model.
        """


T = TypeVar("T", bound=msgspec.Struct)

SECRET = {"secret": True}
"""``Annotated[str, Meta(extra=SECRET)]`` marks an option whose value is shown to nobody."""
HIDDEN = "***"


def shown_options(kind: type[msgspec.Struct], options: Mapping[str, Any]) -> dict[str, Any]:
    """Engine keywords as users may see them: without the values of secrets."""
    secret = {
        field.encode_name
        for field in msgspec.structs.fields(kind)
        if any(getattr(mark, "extra", None) == SECRET for mark in getattr(field.type, "__metadata__", ()))
    }
    return {name: HIDDEN if name in secret and value else value for name, value in options.items()}


def parse_options(kind: type[T], options: dict[str, Any], engine: str) -> T:
    """Engine keywords as the engine's own struct. Command lines send strings, so "4" is accepted for 4.

    Raises:
        InvalidRequest: an unknown keyword or a value of the wrong type; names the keyword and what would be right.
    """
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    unknown = sorted(set(options) - known) if kind.__struct_config__.forbid_unknown_fields else []
    if unknown:
        accepted = ", ".join(sorted(known)) or "none"
        raise InvalidRequest(
            f"engine {engine!r} has no option {unknown[0]!r}; its options are: {accepted}", param=unknown[0]
        )
    required = [field.encode_name for field in msgspec.structs.fields(kind) if field.required]
    if lacking := [name for name in required if name not in options]:
        raise InvalidRequest(f"engine {engine!r} needs the option {lacking[0]!r}", param=lacking[0])
    try:
        return msgspec.convert(options, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"options of engine {engine!r}: {error}", param=_path_in(str(error), known)) from None


def _path_in(text: str, known: AbstractSet[str]) -> str | None:
    """Msgspec writes ``... - at `$.name` ``; the name is the parameter."""
    name = text.rpartition("`$.")[2].partition("`")[0].partition(".")[0].partition("[")[0]
    return name if name in known else None
