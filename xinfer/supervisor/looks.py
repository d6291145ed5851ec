"""Looks at what is not on this machine: repositories of hubs, and files and downloads of the workers.

A launch is resolved in a thread, and waits there for what is asked here.
"""

import asyncio
from collections.abc import Collection, Coroutine, Sequence
from typing import Any, TypeVar

from xinfer.catalog.downloaded import downloaded_spec
from xinfer.catalog.remote import hub_sources, published, remote_spec
from xinfer.catalog.sources import HubSource
from xinfer.errors import DownloadFailed, InvalidRequest
from xinfer.ops import Kind
from xinfer.settings import Settings
from xinfer.spec import Format, ModelSpec
from xinfer.supervisor.shell import Shell
from xinfer.supervisor.workers import Ask, ask_workers

T = TypeVar("T")


class HubLooks:
    """As ``meaning.Elsewhere`` says, of hubs and of this machine. Its methods block."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def sources(self, name: str) -> tuple[HubSource, ...]:
        """The repositories that an ``OWNER/NAME`` can mean, as XINFER_MODEL_SRC says."""
        return hub_sources(name, self._settings)

    def repository(self, sources: Sequence[HubSource], kinds: Collection[Kind]) -> ModelSpec:
        """What the first of these repositories holds that is here, or on a hub.

        Weights that are here go first, because they are what a worker takes that has them.

        Raises:
            InvalidRequest: nothing that we know.
            Absent: no hub has it.
            DownloadFailed: the hubs do not say, or the settings forbid to ask them.
        """
        if spec := downloaded_spec(sources, kinds, self._settings):
            return spec
        if self._settings.offline:
            raise self._offline(sources)
        return remote_spec(sources, kinds, settings=self._settings)

    def published(self, sources: Sequence[HubSource]) -> tuple[HubSource, Format]:
        """The first of these repositories that there is, and the format of its weights; offline, what is here of them.

        Raises:
            Absent: no hub has it.
            DownloadFailed: the hubs do not say.
        """
        if self._settings.offline:
            spec = self.repository(sources, ())
            found = next(source for source in sources if str(source) == spec.source)
            return found, spec.format
        return published(sources, self._settings)

    def path(self, _path: str, _name: str, _kinds: Collection[Kind]) -> ModelSpec | None:
        """Nobody else is asked."""
        return None

    def _offline(self, sources: Sequence[HubSource]) -> DownloadFailed:
        first = sources[0]
        return DownloadFailed(
            f"{first.repository} is not in the catalog, no machine here has its weights, and XINFER_OFFLINE keeps us "
            f"from asking {' or '.join(source.page for source in sources)}. On a machine with a network, xinfer models "
            f"pull '{first}' downloads it; bring the folder that it prints, and launch with --model-path FOLDER",
            param="model_name",
        )


class Looks(HubLooks):
    """Of the workers, too. Made in the loop of the shell, and called in threads."""

    def __init__(self, settings: Settings, shell: Shell) -> None:
        super().__init__(settings)
        self._shell = shell
        self._loop = asyncio.get_running_loop()

    def repository(self, sources: Sequence[HubSource], kinds: Collection[Kind]) -> ModelSpec:
        """What the first of these repositories holds that is here, or on a hub, or else on a worker.

        Raises:
            InvalidRequest: nothing that we know.
            Absent: no hub has it.
            DownloadFailed: the hubs do not say.
        """
        try:
            return super().repository(sources, kinds)
        except DownloadFailed:
            if spec := self._ask(lambda worker: worker.look_at_weights(tuple(sources), tuple(kinds))):
                return spec
            raise

    def path(self, path: str, name: str, kinds: Collection[Kind]) -> ModelSpec | None:
        """What is at a path of a worker; None: no worker has anything there.

        Raises:
            InvalidRequest: nothing that we know.
        """
        return self._ask(lambda worker: worker.look_at_path(path, name, tuple(kinds)))

    def _ask(self, ask: Ask) -> ModelSpec | None:
        """The first answer of a worker that knows, else its refusal."""
        found, errors = self._in_loop(ask_workers(self._shell.living_workers(), ask))
        specs = [spec for spec in found.values() if spec is not None]
        refusals = [error for error in errors.values() if isinstance(error, InvalidRequest)]
        if refusals and not specs:
            raise refusals[0]
        return specs[0] if specs else None

    def _in_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
