"""The contract between a replica and its engine.

An engine lives in the replica's process, and only there is its library imported: the module of an engine must be
importable without it, because the supervisor and the worker ask ``accepts`` and ``available`` of every engine.

``serve`` yields one ``Head`` and then ``bytes``: body chunks exactly as the client's socket will carry them (for a
stream: whole SSE events). To end, it returns; to fail, it raises. An error before the Head becomes a proper HTTP
status, one after it an SSE error event, so an engine yields its Head only when the first chunk is ready. It is closed
(``aclose``) when the client is gone, and must stop working for the request then.
"""

from collections.abc import AsyncIterator, Callable
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar, Protocol, TypeVar

import msgspec

from xinfer.devices import Grant
from xinfer.errors import InvalidRequest
from xinfer.ops import Op
from xinfer.spec import Format, ModelSpec


class Available(msgspec.Struct, frozen=True):
    """Whether an engine can be used in this environment; if not, ``reason`` says what to install."""

    ok: bool
    reason: str = ""
    version: str = ""


class Match(msgspec.Struct, frozen=True):
    """Whether an engine can run a model; if not, ``reason`` is something the user can act on."""

    ok: bool
    reason: str = ""


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


class Engine(Protocol):
    """What every engine does. See the module docstring for the rules of ``serve``."""

    name: ClassVar[str]
    title: ClassVar[str]
    """One line for people who choose an engine."""
    ops: ClassVar[frozenset[Op]]
    formats: ClassVar[frozenset[Format]]
    install: ClassVar[str]
    """The command that installs its library; empty when nothing is needed."""
    preference: ClassVar[int]
    """Where several engines accept a model, the highest available one is chosen."""
    Options: ClassVar[type[msgspec.Struct]]
    """The engine keywords a launch may carry; a struct with ``forbid_unknown_fields``."""

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


T = TypeVar("T", bound=msgspec.Struct)


def parse_options(kind: type[T], options: dict[str, Any], engine: str) -> T:
    """Engine keywords as the engine's own struct. Command lines send strings, so "4" is accepted for 4.

    Raises:
        InvalidRequest: an unknown keyword or a value of the wrong type; names the keyword and what would be right.
    """
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    unknown = sorted(set(options) - known)
    if unknown:
        accepted = ", ".join(sorted(known)) or "none"
        raise InvalidRequest(
            f"engine {engine!r} has no option {unknown[0]!r}; its options are: {accepted}", param=unknown[0]
        )
    try:
        return msgspec.convert(options, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"options of engine {engine!r}: {error}", param=_path_in(str(error), known)) from None


def _path_in(text: str, known: AbstractSet[str]) -> str | None:
    """Msgspec writes ``... - at `$.name` ``; the name is the parameter."""
    name = text.rpartition("`$.")[2].partition("`")[0].partition(".")[0].partition("[")[0]
    return name if name in known else None
