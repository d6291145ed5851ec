"""What may change of SGLang while it runs: adapters come and go."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from xinfer.engines.base import Call, Match
from xinfer.engines.sglang import adapters
from xinfer.errors import LoadFailed, UnsupportedParameter
from xinfer.ops import Op
from xinfer.spec import Adapter

if TYPE_CHECKING:
    from xinfer.engines.sglang.server import SglangServer


WITH_ADAPTERS = frozenset({Op.CHAT, Op.COMPLETION, Op.EMBEDDING})
WITHOUT_WEIGHTS = frozenset({Op.TOKENIZE, Op.DETOKENIZE})
"""Operations that an adapter changes nothing about."""


class ChangesOfSglang:
    """The part of the engine that takes adapters."""

    _server: "SglangServer | None" = None

    def __init__(self) -> None:
        super().__init__()
        self._adapters: set[str] = set()
        """Their names."""

    @classmethod
    def options_with_adapters(cls, options: Mapping[str, Any], wanted: Sequence[Adapter]) -> dict[str, Any]:
        """Its own arguments for adapters, with a rank that is high enough."""
        return adapters.options_with_adapters(options, wanted)

    @classmethod
    def accepts_adapter(cls, options: Mapping[str, Any], adapter: Adapter) -> Match:
        """Whether it was started for adapters, and for ranks as high."""
        return adapters.accepts_adapter(options, adapter)

    async def load_adapter(self, adapter: Adapter) -> None:
        """Have SGLang's server serve it.

        Raises:
            LoadFailed: SGLang does not take it; says why.
            EndpointFailed: its server does not answer.
        """
        await self._update(adapters.LOAD_PATH, {"lora_name": adapter.name, "lora_path": adapter.path})
        self._adapters.add(adapter.name)

    async def unload_adapter(self, adapter: Adapter) -> None:
        """Have it served no more; SGLang waits until the requests that have begun with it are done."""
        self._adapters.discard(adapter.name)
        await self._update(adapters.UNLOAD_PATH, {"lora_name": adapter.name})

    def with_adapter(self, call: Call) -> Call:
        """The call, asking SGLang for the adapter that it names; else as it is.

        Raises:
            UnsupportedParameter: SGLang has no adapters for such calls.
        """
        if call.model not in self._adapters or call.op in WITHOUT_WEIGHTS:
            return call
        if call.op not in WITH_ADAPTERS:
            raise UnsupportedParameter(
                f"SGLang serves adapters for chat, completions and embeddings only, not for {call.op}", param="model"
            )
        return msgspec.structs.replace(call, body=adapters.asking_for(call.model, call.body))

    async def _update(self, path: str, order: Mapping[str, str]) -> None:
        assert self._server is not None
        answer = await self._server.post(path, msgspec.json.encode(order))
        try:
            said = msgspec.json.decode(answer.body, type=adapters.Updated)
        except msgspec.DecodeError:
            said = adapters.Updated(error_message=f"it answered with status {answer.status}: {answer.body[:200]!r}")
        if not said.success:
            raise LoadFailed(f"SGLang: {said.error_message or f'status {answer.status}'}")
