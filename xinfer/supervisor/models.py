"""What people ask about models that need not be launched: what could run them here, and registering their own."""

import asyncio
from typing import Any

from xinfer.catalog.registered import Registration
from xinfer.catalog.roots import Roots
from xinfer.catalog.selection import kinds_of
from xinfer.errors import UnknownModel
from xinfer.protocol import LaunchRequest
from xinfer.supervisor import admission
from xinfer.supervisor.capacity import Ledger
from xinfer.supervisor.comparison import by_engine, compared
from xinfer.supervisor.matching import Room, room_in
from xinfer.supervisor.registrations import Registrations, checked_registration
from xinfer.supervisor.registry import Registry
from xinfer.supervisor.shell import Shell
from xinfer.supervisor.weights import weights_of, with_downloaded


class ForModels:
    """The part of the supervisor's actor that is about models, launched or not."""

    _shell: Shell
    _registry: Registry
    _registrations: Registrations
    _roots: Roots

    async def match(self, request: LaunchRequest, brief: bool) -> dict[str, Any]:
        """Every combination of an engine and weights of a model, the best first, and what stands against the others.

        The words of the launch narrow it down; nothing is launched. ``brief``: as Xinference answers, by engine.

        Raises:
            InvalidRequest: there is no such model, or nothing of it is as the request says.
            NotReady: no worker is there.
        """
        shell = self._shell
        await shell.settled()
        admission.require_workers(shell.cluster)
        matches = self._registry.matches
        found = compared(await asyncio.to_thread(matches, request, shell.living_workers(), room_now(shell)))
        return by_engine(found) if brief else with_downloaded(found, await weights_of(shell.living_workers()))

    async def register(self, model_type: str, document: dict[str, Any], update: bool) -> Registration:
        """Let a model be launched by its name. ``update``: in place of the one of that name, as its next version.

        Raises:
            InvalidRequest: a field of the document is missing or wrong; names it.
            PathNotAllowed: a path leads out of the folders that models may be read from.
            Conflict: the name is registered already, or clashes with another one.
            UnknownModel: there is nothing to update.
        """
        registration = checked_registration(document, kinds_of(model_type), self._roots)
        return await self._registrations.register(registration, update=update)

    async def unregister(self, model_type: str, name: str) -> Registration:
        """Forget a registration; what was launched from it stays.

        Raises:
            UnknownModel: there is none of that name and type.
        """
        self._typed(model_type, name)
        return await self._registrations.unregister(name)

    async def registrations(self) -> tuple[Registration, ...]:
        """Every registered model, by name."""
        known = self._registrations.models.registrations
        return tuple(known[name] for name in sorted(known))

    def _typed(self, model_type: str, name: str) -> None:
        kind = self._registrations.registered(name).model.kind
        if kind not in kinds_of(model_type):
            raise UnknownModel(f"{name!r} is a model of the type {kind.value}, not {model_type}", param="model_type")


def room_now(shell: Shell) -> Room:
    """Whether replicas have room, by the books as they are now."""
    cluster = shell.cluster
    return room_in(Ledger(cluster.models, cluster.workers, count_leaving=False, cordons=cluster.cordons))
