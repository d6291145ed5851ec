"""Models that can be launched by name, as JSON: those of the built-in catalog, and those that were registered."""

import asyncio
from typing import Any

from fastapi import Request

from xinfer.api.state import state_of
from xinfer.catalog import builtin
from xinfer.catalog.families import Entry
from xinfer.catalog.registered import RegisteredModels, Registration
from xinfer.catalog.selection import default_size, size_of
from xinfer.ops import OPS_OF_KIND
from xinfer.spec import ModelSpec


async def known_models(request: Request) -> RegisteredModels:
    """All of them, as the supervisor knows them.

    Raises:
        SupervisorAway: nobody knows now what is registered.
    """
    found: tuple[Registration, ...] = await state_of(request).supervisor.call("registrations")
    return RegisteredModels(await asyncio.to_thread(builtin), found)


def card(entry: Entry) -> dict[str, Any]:
    """What a list says of a model of the built-in catalog."""
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


def registered_card(models: RegisteredModels, one: Registration) -> dict[str, Any]:
    """All that is known of a registered model."""
    return described(one.entry) | {
        "is_builtin": False,
        "overrides_builtin": models.overrides(one.model.name),
        "version": one.version,
        "registered_at": one.registered_at,
        "notes": list(one.notes),
        "persist": True,
    }


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
