"""Registrations: models beside the built-in catalog, in the words of Xinference or of our catalog."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from xinfer.api.catalog_cards import described, known_models, registered_card
from xinfer.api.routes.catalog import entries, entry_of
from xinfer.api.state import state_of
from xinfer.catalog.registered import Registration
from xinfer.catalog.selection import kinds_of
from xinfer.errors import InvalidRequest, UnknownModel
from xinfer.ops import Kind

router = APIRouter(prefix="/v1/model_registrations", tags=["models"])

Detailed = Annotated[bool, Query(description="More than the name")]


class RegistrationBody(BaseModel):
    """A model to register. It is stored by the supervisor and known to the whole cluster at once."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str | dict[str, Any] = Field(
        description="An entry of a catalog family, or a custom model of Xinference: an object, or its JSON as a string"
    )
    worker_ip: str | None = Field(None, description="There is nothing to choose: every worker knows the model")
    persist: bool = Field(True, description="A registration always survives restarts")


@router.get("", summary="List the registered models")
async def registered(request: Request) -> dict[str, Any]:
    """Those beside the built-in catalog, with all that was registered."""
    models = await known_models(request)
    return {"object": "list", "data": [registered_card(models, one) for one in models.registrations.values()]}


@router.get("/{model_type}", summary="List the models of a type, as Xinference does")
async def list_type(request: Request, model_type: str, *, detailed: Detailed = False) -> list[dict[str, Any]]:
    """Name and ``is_builtin``, registered ones first; with ``detailed`` all that is known of each."""
    kinds, models = kinds_of(model_type), await known_models(request)
    own = [one for one in models.registrations.values() if one.model.kind in kinds]
    builtin = [one for one in entries(models.builtin, model_type) if one.model.name not in models.registrations]
    if detailed:
        return [*(registered_card(models, one) for one in own), *map(described, builtin)]
    return [
        *({"model_name": one.model.name, "is_builtin": False} for one in own),
        *({"model_name": one.model.name, "is_builtin": True} for one in builtin),
    ]


@router.get("/{model_type}/{name:path}", summary="Describe a model of a type, as Xinference does")
async def describe(request: Request, model_type: str, name: str) -> dict[str, Any]:
    """All that is known of it; a registered one goes before a built-in one."""
    models = await known_models(request)
    own = models.registration(name)
    if own is not None:
        _require_type(name, own.model.kind, model_type)
        return registered_card(models, own)
    builtin = entry_of(models.builtin, name)
    _require_type(name, builtin.model.kind, model_type)
    return described(builtin)


@router.post("/{model_type}", summary="Register a model")
async def register(request: Request, model_type: str, body: RegistrationBody) -> dict[str, Any]:
    """From then on it is launched by its name. A name that is registered already is a 409; PUT updates it."""
    return await _register(request, model_type, body, _document(body), update=False)


@router.put("/{model_type}/{name:path}", summary="Update a registered model")
async def update(request: Request, model_type: str, name: str, body: RegistrationBody) -> dict[str, Any]:
    """Its next version. What was launched from an earlier one goes on as it is."""
    document = _document(body)
    given = _name_in(document)
    if given != name:
        raise InvalidRequest(f"the path says {name!r}, and the model is called {given!r}", param="model")
    return await _register(request, model_type, body, document, update=True)


@router.delete("/{model_type}/{name:path}", summary="Unregister a model")
async def unregister(request: Request, model_type: str, name: str) -> dict[str, Any]:
    """What was launched from it goes on; a built-in model that it hid can be launched again."""
    gone: Registration = await state_of(request).supervisor.call("unregister", model_type, name)
    return {"model_name": gone.model.name, "object": "model_registration", "deleted": True}


async def _register(
    request: Request, model_type: str, body: RegistrationBody, document: dict[str, Any], *, update: bool
) -> dict[str, Any]:
    if body.worker_ip:
        raise InvalidRequest(
            "a model is registered for the whole cluster; leave 'worker_ip' out, and give it to the launch",
            param="worker_ip",
        )
    done: Registration = await state_of(request).supervisor.call("register", model_type, document, update)
    return registered_card(await known_models(request), done)


def _document(body: RegistrationBody) -> dict[str, Any]:
    if isinstance(body.model, dict):
        return body.model
    try:
        return msgspec.json.decode(body.model, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"model: it is no JSON object: {error}", param="model") from None


def _name_in(document: dict[str, Any]) -> object:
    models = document.get("models")
    only = models[0] if isinstance(models, list) and models and isinstance(models[0], dict) else document
    return only.get("model_name") or only.get("name")


def _require_type(name: str, kind: Kind, model_type: str) -> None:
    if kind not in kinds_of(model_type):
        raise UnknownModel(f"{name!r} is a model of the type {kind}, not {model_type}", param="model_type")
