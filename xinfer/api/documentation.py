"""OpenAPI entries for the hot routes, from the structs that parse their bodies."""

from collections.abc import Sequence
from typing import Any

import msgspec

from xinfer.api.hot import Hot

_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_ERROR_BODY = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "The request is wrong; says how", "content": _ERROR_BODY},
    "5XX": {"description": "The server could not answer; says why", "content": _ERROR_BODY},
}
"""What every route may answer."""


def add_hot_routes(schema: dict[str, Any], routes: Sequence[Hot]) -> dict[str, Any]:
    """Add an operation for every path of every hot route, and the schemas of their bodies."""
    bodies, components = msgspec.json.schema_components(
        [route.body for route in routes], ref_template="#/components/schemas/{name}"
    )
    known = schema.setdefault("components", {}).setdefault("schemas", {})
    known.update(components)
    known["Error"] = _ERROR
    for route, body in zip(routes, bodies, strict=True):
        for path in route.paths:
            schema["paths"][path] = {"post": _operation(route, path, body)}
    return schema


def _operation(route: Hot, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answers: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    kind = "multipart/form-data" if route.is_form else "application/json"
    if route.streams:
        answers["text/event-stream"] = {"schema": {"type": "string"}}
    return {
        "tags": ["inference"],
        "summary": route.summary,
        "description": route.description,
        "operationId": path.strip("/").replace("/", "_"),
        "requestBody": {"required": True, "content": {kind: {"schema": body}}},
        "responses": {"200": {"description": "The answer", "content": answers}, **ERRORS},
    }
