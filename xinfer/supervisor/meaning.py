"""What the name, id or path of a launch can mean: models of the catalog, registered ones, files, repositories of hubs.

A name that is none of the catalog is looked for in this order: a path from where the server was started; ``OWNER/NAME``
as a folder under one of the roots of models; a repository of the catalog; a repository of the hubs that the settings
name. A launch that was given such an id says where it was found.
"""

import difflib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from xinfer.catalog import introspect, shape_of
from xinfer.catalog.hubs import Absent
from xinfer.catalog.overrides import overridden
from xinfer.catalog.registered import completed, with_silence_filled
from xinfer.catalog.roots import Roots, absolute
from xinfer.catalog.selection import formats_of, kinds_of, select
from xinfer.catalog.sources import HubSource, hub_source, is_here, is_symbolic, missing_weights
from xinfer.catalog.weight_sets import WeightSet, wanted_sets
from xinfer.errors import DownloadFailed, InvalidRequest
from xinfer.ops import Kind
from xinfer.protocol import LaunchRequest
from xinfer.spec import Format, ModelSpec

MOST_NAMES = 20
"""Of models that an error lists."""


class KnownModels(Protocol):
    """Models by name: the built-in catalog, or that and what was registered."""

    def names(self) -> list[str]:
        """Every model, sorted."""

    def find(self, name: str) -> tuple[ModelSpec, ...]:
        """The specs of a model by its name or alias, the preferred one first; empty if there is none."""

    def in_repository(self, repository: str) -> tuple[ModelSpec, ...]:
        """The specs whose weights are in a repository of a hub."""

    def similar(self, name: str) -> list[str]:
        """The models that somebody may mean who writes a name that is none."""


class Elsewhere(Protocol):
    """What is known beyond this machine: by the hubs, and by the workers. Its methods may block for a while."""

    def sources(self, name: str) -> tuple[HubSource, ...]:
        """The repositories that an ``OWNER/NAME`` can mean, the first choice first; none: it is no such id."""

    def repository(self, sources: Sequence[HubSource], kinds: Collection[Kind]) -> ModelSpec:
        """What the first of these repositories holds that there is.

        Raises:
            InvalidRequest: nothing that we know, or nobody may ask.
            Absent: no hub has it.
            DownloadFailed: the hubs do not say.
        """

    def published(self, sources: Sequence[HubSource]) -> tuple[HubSource, Format]:
        """The first of these repositories that there is, and the format of its weights. Raises as ``repository``."""

    def path(self, path: str, name: str, kinds: Collection[Kind]) -> ModelSpec | None:
        """What is at a path of a worker; None: no worker has anything there.

        Raises:
            InvalidRequest: nothing that we know.
        """


class Nowhere:
    """Nothing but what is on this machine is known."""

    def sources(self, _name: str) -> tuple[HubSource, ...]:
        """See ``Elsewhere``."""
        return ()

    def repository(self, sources: Sequence[HubSource], _kinds: Collection[Kind]) -> ModelSpec:
        """See ``Elsewhere``."""
        raise missing_weights(sources[0])

    def published(self, sources: Sequence[HubSource]) -> tuple[HubSource, Format]:
        """See ``Elsewhere``."""
        raise missing_weights(sources[0])

    def path(self, _path: str, _name: str, _kinds: Collection[Kind]) -> ModelSpec | None:
        """See ``Elsewhere``."""
        return None


class Meant(NamedTuple):
    """The weights that a launch can mean, the preferred ones first, and how they were found."""

    specs: tuple[ModelSpec, ...]
    found: str = ""
    """Where, in words, if the launch leaves that open; else empty."""


def selected(request: LaunchRequest, specs: Sequence[ModelSpec], *, every_size: bool = False) -> list[ModelSpec]:
    """The specs that a launch's words leave, of one size: the default one where it names none, or ``every_size``.

    Raises:
        InvalidRequest: there is no such combination.
    """
    return select(
        specs,
        kind=request.model_type,
        size=request.model_size_in_billions,
        weights_format=request.model_format,
        quantization=request.quantization,
        every_size=every_size,
    )


class Meanings:
    """See the module."""

    def __init__(self, models: KnownModels, roots: Roots, elsewhere: Elsewhere) -> None:
        self._models = models
        self._roots = roots
        self._elsewhere = elsewhere

    def of(self, request: LaunchRequest) -> Meant:
        """What a launch can mean, with what it says about it.

        Raises:
            InvalidRequest: nothing; says what there is.
            PathNotAllowed: it is a path that leads out of the folders that models may be read from.
            DownloadFailed: the hubs do not say.
        """
        meant = self._meant(request)
        return meant._replace(specs=overridden(meant.specs, request.overrides))

    def weights(self, request: LaunchRequest) -> tuple[WeightSet, ...]:
        """The weights on hubs that are meant, of one model: where they are, the preferred place first.

        Raises:
            InvalidRequest: there are none; says why.
            DownloadFailed: the hubs do not say.
        """
        name = request.model_name.strip()
        remote = hub_source(name)
        if specs := self._models.find(name) or self._in_catalog(name, remote):
            left = selected(request, specs)
            if found := next(filter(None, map(wanted_sets, left)), None):
                return found
            raise InvalidRequest(
                f"{name!r} comes from no hub, so there is nothing to download: its weights are at {left[0].source}",
                param="model_name",
            )
        sources = (remote,) if remote else self._elsewhere.sources(name)
        if not sources:
            raise self._unknown(name)
        if request.model_format:
            return tuple(WeightSet(source, formats_of(request.model_format)[0]) for source in sources)
        try:
            source, weights_format = self._elsewhere.published(sources)
        except Absent as error:
            raise self._absent(name, error) from error
        others = (other for other in sources if other != source)
        return tuple(WeightSet(one, weights_format) for one in (source, *others))

    def read(self, spec: ModelSpec) -> ModelSpec:
        """The spec with what its files say of its shape; where nothing at all is known, with all that its hub says."""
        remote = hub_source(spec.source)
        if spec.shape is not None or spec.format is Format.NONE:
            return spec
        if remote is None or spec.weights_mib:
            return msgspec.structs.replace(spec, shape=shape_of(spec))
        try:
            return with_silence_filled(spec, self._elsewhere.repository((remote,), (spec.kind,)))
        except (InvalidRequest, DownloadFailed):
            return spec  # the worker that downloads it says what is wrong

    def _meant(self, request: LaunchRequest) -> Meant:
        name = request.model_name.strip()
        kinds = kinds_of(request.model_type) if request.model_type else ()
        if request.model_path:
            return Meant((self._at(request.model_path, name, kinds),))
        if specs := self._models.find(name):
            return Meant(tuple(map(self._completed, specs)))
        if self._is_path(name):
            return Meant((introspect(absolute(name, "model_name"), kinds=kinds),))
        remote = hub_source(name)
        sources = (remote,) if remote else self._elsewhere.sources(name)
        if sources and not remote and (local := self._roots.find(name)):
            return Meant((introspect(local, kinds=kinds),), f"it is the folder {local}")
        if specs := self._in_catalog(name, remote):
            return Meant(specs)
        if not sources:
            raise self._unknown(name)
        try:
            spec = self._elsewhere.repository(sources, kinds)
        except Absent as error:
            no_folder = "" if remote else "; nor is there a folder of that name under the model roots"
            raise self._absent(name, error, no_folder) from error
        return Meant((spec,), "" if remote else f"it is {spec.source}")

    def _in_catalog(self, name: str, remote: HubSource | None) -> tuple[ModelSpec, ...]:
        """What the catalog has of a repository that is named as a whole, and not at a revision or by its files."""
        if remote is not None and (remote.revision or remote.files):
            return ()
        return self._models.in_repository(remote.repository if remote else name)

    def _at(self, path: str, name: str, kinds: Sequence[Kind]) -> ModelSpec:
        """What is at a path, here or on the workers, or in a repository of a hub."""
        if remote := hub_source(path):
            return msgspec.structs.replace(self._elsewhere.repository((remote,), kinds), name=name or remote.title)
        self._roots.require(path)
        path = absolute(path)
        found = None if is_here(path) else self._elsewhere.path(path, name, kinds)
        return found or introspect(path, name, kinds)

    def _completed(self, spec: ModelSpec) -> ModelSpec:
        """The spec of a registered folder or file with what its own files say, where its registration does not.

        Raises:
            PathNotAllowed: it leads out of the folders that models may be read from.
        """
        if not spec.source or spec.format is Format.NONE:
            return spec
        self._roots.require(spec.source)
        if is_symbolic(spec.source) or is_here(spec.source):
            return completed(spec)
        found = self._elsewhere.path(spec.source, spec.name, (spec.kind,))
        return with_silence_filled(spec, found) if found else spec

    def _is_path(self, name: str) -> bool:
        """Whether a name that is none of the catalog is a path that there is.

        Raises:
            PathNotAllowed: it can only be a path, and leads out of the folders that models may be read from.
        """
        if not name or is_symbolic(name):
            return False
        if name.startswith(("/", "./", "../", "~")):
            self._roots.require(name, "model_name")
        return self._roots.allow(name) and Path(absolute(name, "model_name")).exists()

    def _unknown(self, name: str) -> InvalidRequest:
        return InvalidRequest(
            f"no model {name!r} in the catalog ({self._hint(name)}); a model of your own is launched with the path of "
            "its folder, one of a hub with its id: OWNER/NAME",
            param="model_name",
        )

    def _absent(self, name: str, error: Absent, also: str = "") -> InvalidRequest:
        title = name.partition("@")[0].partition("#")[0].rpartition("/")[2]
        similar = self._spelt_like(title)
        hint = f"; did you mean {' or '.join(similar)} of the catalog?" if similar else ""
        return InvalidRequest(f"{error.message}{also}{hint}", param="model_name")

    def _similar(self, name: str) -> list[str]:
        return (self._models.similar(name) or self._spelt_like(name))[:MOST_NAMES]

    def _spelt_like(self, name: str) -> list[str]:
        return difflib.get_close_matches(name.lower(), self._models.names(), n=3)

    def _hint(self, name: str) -> str:
        names = self._models.names()
        if meant := self._similar(name):
            return f"did you mean {' or '.join(meant)}?"
        if len(names) <= MOST_NAMES:
            return f"there are: {', '.join(names)}"
        return f"it has {len(names)} models: xinfer models catalog, GET /v1/catalog"
