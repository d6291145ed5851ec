"""Models that were registered beside the built-in catalog. Pure, but for reading local files.

A registration is what an entry of a catalog family is: the document may be a family file with one model, or the model
itself (with ``shapes`` beside its fields, where it has sizes). A registered name goes before a built-in one.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from xinfer.catalog.families import Catalog, CatalogModel, Entry, Family, Shape
from xinfer.catalog.introspect import introspect
from xinfer.catalog.sources import is_symbolic
from xinfer.catalog.xinference_models import is_foreign, translated
from xinfer.errors import Conflict, InvalidRequest
from xinfer.spec import Format, ModelSpec

FAMILY = "registered"
"""The ``family`` of a registered model whose document names none."""


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """A registered model, as it is stored. ``registered_at`` is epoch seconds."""

    model: CatalogModel
    family: str = FAMILY
    shapes: dict[str, Shape] = {}
    notes: tuple[str, ...] = ()
    """What of its document is read from the model's own files instead."""
    version: int = 1
    """Grows with every update."""
    registered_at: float = 0.0

    @property
    def entry(self) -> Entry:
        """As the catalog has models.

        Raises:
            ValueError: its fields do not go together; says why.
        """
        return Entry(self.family, self.model, self.model.specs(self.family, self.shapes))


def read_registration(document: Mapping[str, Any]) -> Registration:
    """The registration that a document describes: an entry of our catalog, or a custom model of Xinference.

    Raises:
        InvalidRequest: a field is missing, unknown, or wrong; names it.
    """
    notes: tuple[str, ...] = ()
    family = FAMILY
    if is_foreign(document):
        document, family, notes = translated(document)
    found = _as_family(document)
    if len(found.models) != 1:
        raise InvalidRequest(f"a registration is of one model, and 'models' has {len(found.models)}", param="models")
    registration = Registration(model=found.models[0], family=family or FAMILY, shapes=found.shapes, notes=notes)
    try:
        specs = registration.entry.specs
        Catalog({registration.family: found})
    except ValueError as error:
        raise InvalidRequest(str(error), param="variants") from error
    for number, variant in enumerate(registration.model.variants):
        if not (variant.source or variant.huggingface or variant.modelscope or variant.format is Format.NONE):
            raise InvalidRequest(
                f"variants[{number}] does not say where its weights are: give source (a path on the workers), "
                "huggingface or modelscope (an id there)",
                param=f"variants[{number}].source",
            )
    if not specs:
        raise InvalidRequest("the model has no weights: 'variants' is empty", param="variants")
    return registration


def _as_family(document: Mapping[str, Any]) -> Family:
    if "models" not in document:
        model = {name: value for name, value in document.items() if name != "shapes"}
        document = {"models": [model], "shapes": document.get("shapes", {})}
    try:
        return msgspec.convert(document, Family)
    except msgspec.ValidationError as error:
        # "Expected `str`, got `int` - at `$.models[0].variants[1].format`"
        message, _, place = str(error).partition(" - at ")
        field = place.strip("`").removeprefix("$.").removeprefix("models[0].").removeprefix("models[0]")
        raise InvalidRequest(f"{field or 'the model'}: {message}", param=field or None) from error


class RegisteredModels:
    """The built-in catalog and what was registered beside it; a change makes another one."""

    def __init__(self, builtin: Catalog, registrations: Iterable[Registration] = ()) -> None:
        """Raises Conflict: two of them have a name or an alias in common."""
        self.builtin = builtin
        self.registrations = {registration.model.name: registration for registration in registrations}
        families = {name: Family(models=(one.model,), shapes=one.shapes) for name, one in self.registrations.items()}
        try:
            self._own = Catalog(families)
        except ValueError as error:
            raise Conflict(f"it clashes with another registered model: {error}", param="name") from error

    def with_one(self, registration: Registration) -> "RegisteredModels":
        """These and one more, in place of the registration of that name.

        Raises:
            Conflict: it has a name or an alias of another one.
        """
        kept = self.registrations | {registration.model.name: registration}
        return RegisteredModels(self.builtin, kept.values())

    def without(self, name: str) -> "RegisteredModels":
        """These without one."""
        return RegisteredModels(self.builtin, (one for key, one in self.registrations.items() if key != name))

    def registration(self, name: str) -> Registration | None:
        """What was registered under a name or alias."""
        entry = self._own.entry(name)
        return self.registrations[entry.model.name] if entry else None

    def overrides(self, name: str) -> bool:
        """Whether a registered name hides a model of the built-in catalog."""
        return self.builtin.entry(name) is not None

    def names(self) -> list[str]:
        """Every model, sorted."""
        return sorted({*self.builtin.names(), *self._own.names()})

    def find(self, name: str) -> tuple[ModelSpec, ...]:
        """The specs of a model by its name or alias, the preferred one first; empty if there is none."""
        entry = self._own.entry(name)
        if entry is None and (builtin := self.builtin.entry(name)):
            entry = self._own.entry(builtin.model.name) or builtin
        return entry.specs if entry else ()

    def in_repository(self, repository: str) -> tuple[ModelSpec, ...]:
        """The specs whose weights are in a repository of a hub, by its id; empty if there are none."""
        return self._own.in_repository(repository) or self.builtin.in_repository(repository)

    def similar(self, name: str) -> list[str]:
        """As of the catalog, of all models."""
        return sorted({*self._own.similar(name), *self.builtin.similar(name)})


def completed(spec: ModelSpec) -> ModelSpec:
    """The spec of a local folder or file with what its own files say, where the spec says nothing."""
    if spec.format is Format.NONE or not spec.source or is_symbolic(spec.source):
        return spec
    try:
        return with_silence_filled(spec, introspect(spec.source, spec.name))
    except InvalidRequest:
        return spec  # an engine that needs the files says what is wrong with them


def with_silence_filled(spec: ModelSpec, found: ModelSpec) -> ModelSpec:
    """The spec with what was found, where it says nothing itself."""
    silent = {
        field.name: getattr(found, field.name)
        for field in msgspec.structs.fields(ModelSpec)
        if not field.required and getattr(spec, field.name) == field.default
    }
    return msgspec.structs.replace(spec, **silent)
