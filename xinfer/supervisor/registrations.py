"""Models that people register: durable, and known to every launch at once, since it is here that names are resolved.

A Deployment carries the whole of what it serves, so that one that runs does not notice if its model is registered
anew, or no more.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Protocol, TypeVar

import msgspec

from xinfer.catalog import Catalog
from xinfer.catalog.families import Variant
from xinfer.catalog.registered import RegisteredModels, Registration, read_registration
from xinfer.catalog.roots import Roots, absolute
from xinfer.catalog.sources import REPOSITORY, hub_source
from xinfer.errors import Conflict, InvalidRequest, UnknownModel
from xinfer.ops import Kind
from xinfer.spec import ModelSpec
from xinfer.supervisor.registry import check_model_uid

T = TypeVar("T")

logger = logging.getLogger(__name__)


class KeepsRegistrations(Protocol):
    """The part of the store that is needed here."""

    async def put_registration(self, registration: Registration) -> None:
        """Write one durably."""

    async def remove_registration(self, name: str) -> None:
        """Forget one durably."""


class Registrations:
    """The models that can be launched by name: the built-in ones and those that are registered, in step with a store.

    Looking something up needs no lock, also in another thread: a change replaces all at once.
    """

    def __init__(
        self,
        builtin: Catalog,
        store: KeepsRegistrations,
        known: Iterable[Registration] = (),
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """``known``: from the last time. One that clashes with those before it is left out, and the log says so."""
        self.models = RegisteredModels(builtin)
        for one in known:
            try:
                self.models = self.models.with_one(one)
            except Conflict as error:
                logger.warning("the registered model %s is not known: %s", one.model.name, error.message)
        self._store = store
        self._clock = clock
        self._writing = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    def names(self) -> list[str]:
        """Every model, sorted."""
        return self.models.names()

    def find(self, name: str) -> tuple[ModelSpec, ...]:
        """The specs of a model by its name or alias, the preferred one first; empty if there is none."""
        return self.models.find(name)

    def in_repository(self, repository: str) -> tuple[ModelSpec, ...]:
        """The specs whose weights are in a repository of a hub."""
        return self.models.in_repository(repository)

    def similar(self, name: str) -> list[str]:
        """The models that somebody may mean who writes a name that is none."""
        return self.models.similar(name)

    async def register(self, registration: Registration, *, update: bool) -> Registration:
        """Store and use a registration. ``update``: in place of the one of that name, as its next version.

        Raises:
            Conflict: the name is registered and this is no update, or a name or alias is that of another one.
            UnknownModel: there is nothing to update.
            StoreFailed: nothing was changed.
        """
        return await self._to_its_end(self._register(registration, update))

    async def unregister(self, name: str) -> Registration:
        """Forget a registration; what was launched from it stays.

        Raises:
            UnknownModel: there is none of that name.
            StoreFailed: nothing was changed.
        """
        return await self._to_its_end(self._unregister(name))

    def registered(self, name: str) -> Registration:
        """What was registered under a name or alias.

        Raises:
            UnknownModel: nothing.
        """
        found = self.models.registration(name)
        if found is None:
            builtin = " (it is in the built-in catalog, which is not changed)" if self.models.overrides(name) else ""
            known = ", ".join(sorted(self.models.registrations)) or "none"
            raise UnknownModel(f"no model {name!r} is registered{builtin}; there are: {known}", param="model_name")
        return found

    async def _register(self, registration: Registration, update: bool) -> Registration:
        async with self._writing:
            name = registration.model.name
            before = self.registered(name) if update else self.models.registrations.get(name)
            if before is not None and not update:
                raise Conflict(
                    f"{name!r} is registered already (version {before.version}); update it (xinfer register --update, "
                    "PUT) or unregister it first",
                    param="model_name",
                )
            version = before.version + 1 if before else 1
            registration = msgspec.structs.replace(registration, version=version, registered_at=self._clock())
            models = self.models.with_one(registration)
            await self._store.put_registration(registration)
            self.models = models
            return registration

    async def _unregister(self, name: str) -> Registration:
        async with self._writing:
            found = self.registered(name)
            await self._store.remove_registration(found.model.name)
            self.models = self.models.without(found.model.name)
            return found

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Also if the caller goes away: store and memory stay in step."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)


def checked_registration(document: Mapping[str, Any], kinds: tuple[Kind, ...], roots: Roots) -> Registration:
    """What a document registers, with paths as they are on the workers.

    Raises:
        InvalidRequest: a field is missing or wrong; names it.
        PathNotAllowed: a path leads out of the folders that models may be read from.
    """
    registration = read_registration(document)
    model = registration.model
    for name in (model.name, *model.aliases):
        check_model_uid(name, "name")
    if model.kind not in kinds:
        words = " or ".join(kind.value for kind in kinds)
        raise InvalidRequest(
            f"{model.name!r} is a model of the type {model.kind.value}, not {words}", param="model_type"
        )
    variants = tuple(_placed(given, f"variants[{number}].source", roots) for number, given in enumerate(model.variants))
    return msgspec.structs.replace(registration, model=msgspec.structs.replace(model, variants=variants))


def _placed(given: Variant, field: str, roots: Roots) -> Variant:
    """A variant with its path as it is on the workers; a bare ``OWNER/NAME`` is a folder under a root, or on hubs."""
    if not given.source or hub_source(given.source) is not None:
        return given
    local = roots.find(given.source) if REPOSITORY.fullmatch(given.source) else given.source
    if not local:
        return msgspec.structs.replace(given, source="", huggingface=given.source, modelscope=given.source)
    roots.require(local, field)
    return msgspec.structs.replace(given, source=absolute(local, field))
