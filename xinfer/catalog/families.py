"""The built-in models: one TOML file per family in ``families/``, checked against these structs when it is read.

To add a family, add a file. Nothing else knows their names.
"""

import functools
from importlib import resources

import msgspec

from xinfer.ops import Kind
from xinfer.spec import Format, ModelSpec


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One set of weights of a model. ``weights_mib`` is its size on disk; ``source`` is as in ``ModelSpec``."""

    format: Format
    source: str = ""
    quantization: str = "none"
    size_in_billions: float | None = None
    weights_mib: int = 0


class CatalogModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model that can be launched by its name or one of its ``aliases``. ``context_length`` is in tokens."""

    name: str
    kind: Kind
    variants: tuple[Variant, ...]
    aliases: tuple[str, ...] = ()
    description: str = ""
    abilities: tuple[str, ...] = ()
    context_length: int | None = None
    dimensions: int | None = None
    matryoshka_dims: tuple[int, ...] = ()
    size_in_billions: float | None = None

    def specs(self, family: str) -> tuple[ModelSpec, ...]:
        """What can be served: one spec per variant, the preferred one first."""
        return tuple(
            ModelSpec(
                name=self.name,
                kind=self.kind,
                source=variant.source,
                format=variant.format,
                family=family,
                quantization=variant.quantization,
                size_in_billions=variant.size_in_billions or self.size_in_billions,
                abilities=self.abilities,
                context_length=self.context_length,
                dimensions=self.dimensions,
                matryoshka_dims=self.matryoshka_dims,
                weights_mib=variant.weights_mib,
            )
            for variant in self.variants
        )


class Family(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the catalog."""

    models: tuple[CatalogModel, ...]


class Catalog:
    """The models by name. Names and aliases are unique, and found without regard to case."""

    def __init__(self, families: dict[str, Family]) -> None:
        """``families`` by the name of their file.

        Raises:
            ValueError: a name is used twice.
        """
        self._specs: dict[str, tuple[ModelSpec, ...]] = {}
        self._canonical: dict[str, str] = {}
        for family, content in families.items():
            for model in content.models:
                self._specs[model.name] = model.specs(family)
                for name in (model.name, *model.aliases):
                    if self._canonical.setdefault(name.lower(), model.name) != model.name or not model.variants:
                        raise ValueError(f"catalog family {family!r}: {name!r} is used twice or has no variants")

    def names(self) -> list[str]:
        """Every model, sorted."""
        return sorted(self._specs)

    def find(self, name: str) -> tuple[ModelSpec, ...]:
        """The specs of a model by its name or alias, the preferred one first; empty if there is none."""
        canonical = self._canonical.get(name.lower())
        return self._specs[canonical] if canonical else ()


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
