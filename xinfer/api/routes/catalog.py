"""The catalog: which models can be launched by name, in which sizes, formats and quantizations."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from xinfer.api.catalog_cards import card, described, known_models, registered_card
from xinfer.catalog import Catalog, builtin
from xinfer.catalog.families import Entry
from xinfer.catalog.registered import RegisteredModels
from xinfer.catalog.selection import kinds_of
from xinfer.errors import SupervisorAway, UnknownModel
from xinfer.ops import Kind

router = APIRouter(prefix="/v1", tags=["models"])

ModelType = Annotated[str | None, Query(description="Only models of this type: LLM, embedding, rerank, audio, ...")]
AWAY = "registered models are not listed, because the supervisor does not answer"


@router.get("/catalog", summary="List the models that can be launched by name")
async def list_catalog(request: Request, model_type: ModelType = None) -> dict[str, Any]:
    """Each with its sizes, formats and quantizations; ``default_size`` is taken where a launch names none.

    Registered models are there in place of those of the built-in catalog that they hide.
    """
    models, warnings = await _models(request)
    kinds = kinds_of(model_type) if model_type else tuple(Kind)
    own = [one for one in models.registrations.values() if one.model.kind in kinds]
    cards = [
        *(card(entry) for entry in entries(models.builtin, model_type) if entry.model.name not in models.registrations),
        *(card(one.entry) | {"is_builtin": False} for one in own),
    ]
    cards.sort(key=lambda one: str(one["model_name"]))
    return {"object": "list", "data": cards, "warnings": warnings}


@router.get("/catalog/{name:path}", summary="Describe a model of the catalog")
async def retrieve(request: Request, name: str) -> dict[str, Any]:
    """By its name, an alias or the id of a repository: every set of weights, its size and where it is published."""
    models, _ = await _models(request)
    own = models.registration(name)
    return registered_card(models, own) if own is not None else described(entry_of(models.builtin, name))


async def _models(request: Request) -> tuple[RegisteredModels, list[str]]:
    """All that is known now, and what is not."""
    try:
        return await known_models(request), []
    except SupervisorAway:
        return RegisteredModels(await asyncio.to_thread(builtin)), [AWAY]


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
