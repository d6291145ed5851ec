"""The catalog: which models can be launched by name, in which sizes, formats and quantizations."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query

from xinfer.catalog import Catalog, builtin
from xinfer.catalog.families import Entry
from xinfer.catalog.selection import default_size, kinds_of, size_of
from xinfer.errors import UnknownModel
from xinfer.ops import OPS_OF_KIND, Kind
from xinfer.spec import ModelSpec

router = APIRouter(prefix="/v1", tags=["models"])

ModelType = Annotated[str | None, Query(description="Only models of this type: LLM, embedding, rerank, audio, ...")]


@router.get("/catalog", summary="List the models that can be launched by name")
async def list_catalog(model_type: ModelType = None) -> dict[str, Any]:
    """Each with its sizes, formats and quantizations; ``default_size`` is taken where a launch names none."""
    return {"object": "list", "data": [card(entry) for entry in entries(await catalog(), model_type)]}


@router.get("/catalog/{name:path}", summary="Describe a model of the catalog")
async def retrieve(name: str) -> dict[str, Any]:
    """By its name, an alias or the id of a repository: every set of weights, its size and where it is published."""
    return described(entry_of(await catalog(), name))


def card(entry: Entry) -> dict[str, Any]:
    """What a list says of a model."""
    model, kind = entry.model, entry.model.kind
    formats: dict[str, list[str]] = {}
    for spec in entry.specs:
        if spec.quantization not in formats.setdefault(spec.format.value, []):
            formats[spec.format.value].append(spec.quantization)
    return {
        "model_name": model.name,
        "aliases": list(model.aliases),
        "model_family": entry.family,
        "model_type": kind.value,
        "model_description": model.description,
        "model_ability": list(model.abilities),
        "context_length": model.context_length,
        "default_size": default_size(entry.specs),
        "sizes": list(dict.fromkeys(size_of(spec) for spec in entry.specs if size_of(spec))),
        "formats": formats,
        "is_builtin": True,
        "is_served": bool(OPS_OF_KIND[kind]),
    }


def described(entry: Entry) -> dict[str, Any]:
    """The card of a model and its sets of weights, the preferred one first."""
    return card(entry) | {"model_specs": [_weights(spec) for spec in entry.specs]}


def _weights(spec: ModelSpec) -> dict[str, Any]:
    return {
        "size": size_of(spec),
        "model_size_in_billions": spec.size_in_billions,
        "activated_size_in_billions": spec.active_size_in_billions,
        "model_format": spec.format.value,
        "quantization": spec.quantization,
        "context_length": spec.context_length,
        "dimensions": spec.dimensions,
        "weights_mib": spec.weights_mib,
        "sources": [source for source in (spec.source, *spec.mirrors) if source],
    }


async def catalog() -> Catalog:
    """Read once, in a thread: the first time it takes as long as many requests."""
    return await asyncio.to_thread(builtin)


def entries(catalog: Catalog, model_type: str | None) -> list[Entry]:
    """The models of a type, or all, by name."""
    kinds = kinds_of(model_type) if model_type else tuple(Kind)
    found = [entry for name in catalog.names() if (entry := catalog.entry(name))]
    return [entry for entry in found if entry.model.kind in kinds]


def entry_of(catalog: Catalog, name: str) -> Entry:
    """A model by its name, an alias or the id of a repository.

    Raises:
        UnknownModel: there is none; says what is meant, perhaps.
    """
    found = catalog.in_repository(name)
    entry = catalog.entry(found[0].name if found else name)
    if entry is None:
        similar = catalog.similar(name)
        hint = f"did you mean {' or '.join(similar)}?" if similar else "GET /v1/catalog lists them"
        raise UnknownModel(f"no model {name!r} in the catalog; {hint}", param="model_name")
    return entry
