"""What may change of echo while it runs: it knows adapters by their names only, and sleep gives nothing back."""

from collections.abc import Mapping, Sequence
from typing import Any

from xinfer.engines.base import Match
from xinfer.errors import EngineFailed
from xinfer.spec import Adapter


class ChangesOfEcho:
    """The part of the engine that takes adapters and sleeps. ``failures`` say what is to go wrong, and why."""

    def __init__(self) -> None:
        self.adapters: set[str] = set()
        self.asleep = False
        self.failures: Mapping[str, str] = {}
        """By "sleep", "wake", or the name of an adapter."""

    @classmethod
    def options_with_adapters(cls, options: Mapping[str, Any], adapters: Sequence[Adapter]) -> dict[str, Any]:  # noqa: ARG003  the contract
        """It needs nothing for them."""
        return dict(options)

    @classmethod
    def accepts_adapter(cls, options: Mapping[str, Any], adapter: Adapter) -> Match:  # noqa: ARG003
        """Any: it does not look into them."""
        return Match(True)

    async def load_adapter(self, adapter: Adapter) -> None:
        """From now on, calls for it are answered with its name before the text."""
        self._fail_at(adapter.name)
        self.adapters.add(adapter.name)

    async def unload_adapter(self, adapter: Adapter) -> None:
        """Know it no more."""
        self.adapters.discard(adapter.name)

    @classmethod
    def accepts_sleep(cls, options: Mapping[str, Any], level: int) -> Match:  # noqa: ARG003
        """Two levels, which are no different."""
        return Match(True) if level in (1, 2) else Match(False, f"the levels of sleep are 1 and 2, not {level}")

    async def sleep(self, level: int) -> None:  # noqa: ARG002
        """From now on, every call fails: none should come."""
        self._fail_at("sleep")
        self.asleep = True

    async def wake(self) -> None:
        """Answer again."""
        self._fail_at("wake")
        self.asleep = False

    def _fail_at(self, what: str) -> None:
        if reason := self.failures.get(what):
            raise EngineFailed(reason)
