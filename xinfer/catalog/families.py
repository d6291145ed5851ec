"""The built-in models: one TOML file per family in ``families/``, checked against these structs when it is read.

To add a family, add a file. Nothing else knows their names. A model has variants (a format, quantizations, where the
weights are) and, if it comes in several, sizes; every variant exists in every size unless it says in which. The shapes
of models are those of their family, by the label of the size where nothing else is said. Texts of a variant may hold
placeholders, so that one variant describes all sizes and quantizations:

- ``{size}`` is "0.6B", or "30B-A3B" for a mixture of experts, and ``{size_lower}`` the same in lower case;
- ``{quantization}`` and ``{quantization_lower}`` are one of its ``quantizations``.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import NamedTuple

import msgspec

from xinfer.catalog.quantizations import weight_bytes
from xinfer.catalog.sources import Hub, HubSource, hub_source
from xinfer.ops import Kind
from xinfer.spec import Format, ModelShape, ModelSpec

MIB = 1024 * 1024


class Shape(ModelShape, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A ModelShape in which what follows from the rest may be left out."""

    tied_embeddings: bool = False
    """Input and output share the embeddings, so that they are in the weights once."""

    def shape_of(self, weights_format: Format, quantization: str) -> ModelShape:
        """The shape of the model as these weights have it.

        Raises:
            ValueError: nobody knows how large weights of this quantization are.
        """
        given = {name: getattr(self, name) for name in ModelShape.__struct_fields__}
        tables = 1 if self.tied_embeddings else 2
        return ModelShape(
            **given
            | {
                "attention_layers": self.attention_layers or self.layers - self.sliding_layers,
                "value_dim": self.value_dim or self.head_dim,
                "weight_bytes": weight_bytes(self, weights_format, quantization, embedding_tables=tables),
            }
        )


class Size(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A size that a model comes in: billions of parameters, as its name says it, and what is special about it."""

    billions: float
    active_billions: float | None = None
    """Of a mixture of experts, those that one token uses."""
    shape: str = ""
    """The name of the shape in the family; empty: the label."""
    context_length: int | None = None
    dimensions: int | None = None

    @property
    def label(self) -> str:
        """As names of repositories have it: "0.6B", "30B-A3B"."""
        return size_label(self.billions, self.active_billions)


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sets of weights of a model that lie in the same way. ``source`` is as in ``ModelSpec``, or its hubs are given.

    ``weights_mib`` is their size on disk, where it does not follow from the shape.
    """

    format: Format
    source: str = ""
    huggingface: str = ""
    """The id there."""
    modelscope: str = ""
    revision: str = ""
    files: str = ""
    """A pattern as in shells, where a repository holds several sets of weights; it fits all parts of a split one."""
    quantization: str = "none"
    quantizations: tuple[str, ...] = ()
    """Several, the preferred one first; they come before ``quantization``."""
    sizes: tuple[str, ...] = ()
    """The labels of the sizes that it exists in; none: all."""
    size_in_billions: float | None = None
    weights_mib: int = 0

    def sources(self, words: Mapping[str, str]) -> tuple[str, ...]:
        """Where these weights are, the preferred place first."""
        hubs = {Hub.HUGGINGFACE: self.huggingface, Hub.MODELSCOPE: self.modelscope}
        files = self.files.format(**words)
        found = (HubSource(hub, name.format(**words), self.revision, files) for hub, name in hubs.items() if name)
        return tuple(str(source) for source in found) or (self.source,)


class CatalogModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model that can be launched by its name or one of its ``aliases``. ``context_length`` is in tokens."""

    name: str
    kind: Kind
    variants: tuple[Variant, ...]
    """The preferred one first."""
    sizes: tuple[Size, ...] = ()
    aliases: tuple[str, ...] = ()
    description: str = ""
    abilities: tuple[str, ...] = ()
    context_length: int | None = None
    dimensions: int | None = None
    matryoshka_dims: tuple[int, ...] = ()
    size_in_billions: float | None = None

    def specs(self, family: str, shapes: Mapping[str, Shape]) -> tuple[ModelSpec, ...]:
        """What can be served: one spec for each set of weights, the preferred one first.

        Raises:
            ValueError: a size has no shape, or a variant names a size that the model has not, a placeholder that there
                is not, or a quantization whose size is unknown.
        """
        known = {size.label for size in self.sizes}
        if shapeless := {size.shape or size.label for size in self.sizes} - shapes.keys():
            raise ValueError(f"there is no shape {' or '.join(sorted(shapeless))} for {self.name!r}")
        specs = []
        for variant in self.variants:
            if unknown := set(variant.sizes) - known:
                raise ValueError(f"{self.name!r} has no size {' or '.join(sorted(unknown))}")
            for size in self._sizes_of(variant):
                for quantization in variant.quantizations or (variant.quantization,):
                    shape = shapes[size.shape or size.label].shape_of(variant.format, quantization) if size else None
                    specs.append(self._spec(family, variant, size, quantization, shape))
        return tuple(specs)

    def _sizes_of(self, variant: Variant) -> Iterator[Size | None]:
        if not self.sizes:
            yield None
        for size in self.sizes:
            if not variant.sizes or size.label in variant.sizes:
                yield size

    def _spec(
        self, family: str, variant: Variant, size: Size | None, quantization: str, shape: ModelShape | None
    ) -> ModelSpec:
        label = size.label if size else ""
        words = {"size": label, "quantization": quantization}
        words |= {f"{name}_lower": word.lower() for name, word in words.items()}
        try:
            source, *mirrors = variant.sources(words)
        except (KeyError, IndexError) as error:
            raise ValueError(f"{self.name!r} has a placeholder that there is not: {error}") from error
        derived = math.ceil(sum(shape.weight_bytes.values()) / MIB) if shape else 0
        return ModelSpec(
            name=self.name,
            kind=self.kind,
            source=source,
            mirrors=tuple(mirrors),
            format=variant.format,
            family=family,
            quantization=quantization,
            size_in_billions=size.billions if size else variant.size_in_billions or self.size_in_billions,
            active_size_in_billions=size.active_billions if size else None,
            abilities=self.abilities,
            context_length=(size and size.context_length) or self.context_length,
            dimensions=(size and size.dimensions) or self.dimensions,
            matryoshka_dims=self.matryoshka_dims,
            weights_mib=variant.weights_mib or derived,
            shape=shape,
        )


class Family(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the catalog."""

    models: tuple[CatalogModel, ...]
    shapes: dict[str, Shape] = {}


class Entry(NamedTuple):
    """A model of the catalog: what its file says, and what can be served."""

    family: str
    model: CatalogModel
    specs: tuple[ModelSpec, ...]


class Catalog:
    """The models by name. Names and aliases are unique; case and what is between words ("-", "_", ".") do not count."""

    def __init__(self, families: dict[str, Family]) -> None:
        """``families`` by the name of their file.

        Raises:
            ValueError: a name is used twice, a model has no variants, or a variant does not fit its model.
        """
        self._entries: dict[str, Entry] = {}
        self._canonical: dict[str, str] = {}
        self._spelt: dict[str, set[str]] = {}
        """Those that are called so if nobody minds what is between the words."""
        self._repositories: dict[str, list[ModelSpec]] = {}
        for family, content in families.items():
            for model in content.models:
                try:
                    self._add(Entry(family, model, model.specs(family, content.shapes)))
                except ValueError as error:
                    raise ValueError(f"catalog family {family!r}: {error}") from error

    def _add(self, entry: Entry) -> None:
        model = entry.model
        for name in (model.name, *model.aliases):
            if self._canonical.setdefault(_plain(name), model.name) != model.name or not entry.specs:
                raise ValueError(f"{name!r} is used twice or has no variants")
            self._spelt.setdefault(_letters(name), set()).add(model.name)
        if self._entries.setdefault(model.name, entry) is not entry:
            raise ValueError(f"{model.name!r} is used twice or has no variants")
        for spec in entry.specs:
            hubs = filter(None, map(hub_source, (spec.source, *spec.mirrors)))
            for repository in {source.repository.lower() for source in hubs}:
                self._repositories.setdefault(repository, []).append(spec)

    def names(self) -> list[str]:
        """Every model, sorted."""
        return sorted(self._entries)

    def entry(self, name: str) -> Entry | None:
        """A model by its name or alias."""
        exact = self._canonical.get(_plain(name))
        meant = {exact} if exact else self._spelt.get(_letters(name), set())
        return self._entries[next(iter(meant))] if len(meant) == 1 else None

    def find(self, name: str) -> tuple[ModelSpec, ...]:
        """The specs of a model by its name or alias, the preferred one first; empty if there is none."""
        entry = self.entry(name)
        return entry.specs if entry else ()

    def in_repository(self, repository: str) -> tuple[ModelSpec, ...]:
        """The specs whose weights are in a repository of a hub, by its id; empty if there are none."""
        return tuple(self._repositories.get(repository.lower(), ()))

    def similar(self, name: str) -> list[str]:
        """The models of a family, or those whose names or aliases begin with ``name``, however it is spelt; sorted."""
        letters = _letters(name)
        members = [model for model, entry in self._entries.items() if letters and _letters(entry.family) == letters]
        begins = [model for alias, model in self._canonical.items() if letters and _letters(alias).startswith(letters)]
        return sorted(set(members or begins))


@functools.cache
def builtin() -> Catalog:
    """The catalog of this package.

    Raises:
        ValueError: a file is not as it has to be; names the file and the field.
    """
    folder = resources.files("xinfer.catalog") / "families"
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".toml")), key=lambda entry: entry.name)
    return Catalog({entry.name.removesuffix(".toml"): read_family(entry.read_bytes(), entry.name) for entry in files})


def read_family(content: bytes, name: str) -> Family:
    """A family from the bytes of its TOML file.

    Raises:
        ValueError: unknown or missing fields, wrong types; names the file and the field.
    """
    try:
        return msgspec.toml.decode(content, type=Family)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ValueError(f"catalog file {name}: {error}") from error


def size_label(billions: float, active_billions: float | None = None) -> str:
    """A size as names of repositories have it: "0.6B", "30B-A3B", "270M"."""
    size = f"{billions:g}B" if billions >= 0.5 else f"{billions * 1000:g}M"
    return f"{size}-A{active_billions:g}B" if active_billions else size


def _letters(name: str) -> str:
    """Without what people put between the words of a name, or do not: "llama3" begins "llama-3.1"."""
    return _plain(name).replace("-", "")


def _plain(name: str) -> str:
    return re.sub(r"[._\s-]+", "-", name.strip().lower())
