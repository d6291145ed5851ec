import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncGenerator
from typing import Any, ClassVar

import msgspec

from xinfer.devices import Grant
from xinfer.engines.base import (
    Available,
    Call,
    EngineMemory,
    Frame,
    Load,
    Match,
    Progress,
    Requirements,
    parse_options,
)
from xinfer.engines.passthrough import PATHS, HttpCaller, HttpClient
from xinfer.engines.remote.options import RemoteOptions
from xinfer.engines.remote.refusing import refused
from xinfer.errors import EndpointFailed, LoadFailed
from xinfer.ops import Op
from xinfer.protocols.naming import renamed_request
from xinfer.settings import child_environment
from xinfer.spec import Format, ModelSpec

log = logging.getLogger(__name__)

TRIES = 5
TRY_AGAIN_S = 2.0
"""An endpoint that cannot be reached while the model is launched is tried so often, and so far apart."""
SHOWN_MODELS = 20


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


class RemoteEngine:
    """See the package."""

    name: ClassVar[str] = "remote"
    title: ClassVar[str] = "a model that another server has: any endpoint that speaks OpenAI's API"
    ops: ClassVar[frozenset[Op]] = frozenset(PATHS)
    formats: ClassVar[frozenset[Format]] = frozenset({Format.NONE})
    install: ClassVar[str] = ""
    requirements: ClassVar[tuple[Requirements, ...]] = ()
    preference: ClassVar[int] = -10
    Options: ClassVar[type[RemoteOptions]] = RemoteOptions
    memory: ClassVar[EngineMemory] = EngineMemory(cpu_mib=128, accelerator_mib=0)
    fileless: ClassVar[bool] = True

    @classmethod
    def available(cls) -> Available:
        """Always."""
        return Available(True, version="1")

    @classmethod
    def accepts(cls, spec: ModelSpec) -> Match:
        """Models without files."""
        if spec.format is Format.NONE:
            return Match(True)
        return Match(False, "remote loads no files; name it as the engine: --model-engine remote --base-url URL")

    def __init__(self) -> None:
        self._model = ""
        self._client: HttpClient | None = None
        self._caller: HttpCaller | None = None

    async def load(self, spec: ModelSpec, options: dict[str, Any], grant: Grant, progress: Progress) -> None:
        """Look whether the endpoint is there, takes the key and has the model.

        Raises:
            LoadFailed: one of these is not so; says which.
            InvalidRequest: the variable with the key is not set.
        """
        wanted = parse_options(RemoteOptions, options, self.name)
        self._model = wanted.model or spec.name
        name = f"the endpoint of {grant.model_uid or spec.name!r}"
        key = wanted.key(child_environment(grant.env))
        headers = wanted.request_headers(key)
        self._client = HttpClient(wanted.origin, name, headers, patience_s=wanted.timeout_s)
        self._caller = HttpCaller(self._client, wanted.paths, functools.partial(refused, name))
        if wanted.check:
            progress(f"looking for {self._model!r} at {wanted.base_url}", 0.5)
            await _check(self._client, wanted.models_path, self._model, name)
        progress("ready", 1.0)

    async def serve(self, call: Call) -> AsyncGenerator[Frame, None]:
        """Let the endpoint answer, with the model's name over there in the request.

        Raises:
            XinferError: it refuses, fails, or cannot be reached.
        """
        assert self._caller is not None
        call = msgspec.structs.replace(call, body=renamed_request(call.headers, call.body, self._model))
        async with contextlib.aclosing(self._caller.serve(call)) as frames:
            async for frame in frames:
                yield frame

    def load_report(self) -> Load:
        """How many requests are under way; how busy the endpoint is nobody here knows."""
        return Load(running=self._caller.running) if self._caller is not None else Load()

    def failure(self) -> str:
        """Never: an endpoint that is away comes back without our being started again."""
        return ""

    async def close(self) -> None:
        """End the connections."""
        if self._client is not None:
            self._client.close()


async def _check(client: HttpClient, path: str, model: str, name: str) -> None:
    for attempt in range(1, TRIES + 1):
        try:
            answer = await client.get(path)
            break
        except EndpointFailed as error:
            if attempt == TRIES:
                raise LoadFailed(error.message) from error
            log.warning("%s; trying again", error.message)
            await asyncio.sleep(TRY_AGAIN_S)
    if answer.status in {404, 405}:
        log.warning("%s has no list of models; whether it has %r shows with the first request", name, model)
        return
    if answer.status != 200:
        raise LoadFailed(refused(name, *answer).message)
    try:
        there = [found.id for found in msgspec.json.decode(answer.body, type=_Models).data]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LoadFailed(f"{name} answers its list of models with something else: {error}") from error
    if model not in there:
        raise LoadFailed(
            f"{name} has no model {model!r}; it has: {', '.join(there[:SHOWN_MODELS]) or 'none'}; name one of them "
            "with 'model', or let nobody look with 'check' false"
        )
