"""The schema at /openapi.json is what clients are generated from, so its references and bodies must hold."""

from collections.abc import Iterator
from typing import Any

import pytest

HOT = {
    "/v1/chat/completions": "ChatRequest",
    "/v1/completions": "CompletionRequest",
    "/v1/embeddings": "EmbeddingsBody",
    "/v1/rerank": "RerankBody",
    "/rerank": "RerankBody",
    "/v2/rerank": "RerankBody",
}


@pytest.fixture
def schema(play) -> dict[str, Any]:
    found = {}

    async def scenario(stage):
        reply = await stage.get("/openapi.json")
        assert reply.status == 200
        found.update(reply.json)

    play(scenario)
    return found


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_reference_leads_somewhere(schema):
    for reference in set(references(schema)):
        place = schema
        for part in reference.removeprefix("#/").split("/"):
            assert part in place, reference
            place = place[part]


def test_the_inference_routes_are_there_with_their_bodies(schema):
    for path, body in HOT.items():
        operation = schema["paths"][path]["post"]
        assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith(f"/{body}")
    streams = {path for path in HOT if "text/event-stream" in str(schema["paths"][path]["post"]["responses"]["200"])}
    assert streams == {"/v1/chat/completions", "/v1/completions"}
    fields = schema["components"]["schemas"]["EmbeddingsBody"]
    assert set(fields["required"]) == {"model", "input"}
    assert "encoding_format" in fields["properties"]


def test_every_operation_has_a_name_of_its_own_and_tells_of_errors_in_our_shape(schema):
    operations = [operation for methods in schema["paths"].values() for operation in methods.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    for operation in operations:
        assert operation["summary"]
        for status in ("4XX", "5XX"):
            body = operation["responses"][status]["content"]["application/json"]["schema"]
            assert body == {"$ref": "#/components/schemas/Error"}
        assert "422" not in operation["responses"]


def test_the_documentation_page_shows_the_schema(play):
    async def scenario(stage):
        reply = await stage.get("/docs")
        assert (reply.status, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert b"/openapi.json" in reply.body

    play(scenario)


def test_the_page_of_the_api_needs_no_foreign_host(play):
    async def scenario(stage):
        page = await stage.get("/docs")
        assert page.status == 200
        assert b"http" not in page.body
        for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
            assert f"/docs/{name}".encode() in page.body
            assert (await stage.get(f"/docs/{name}")).status == 200
        assert (await stage.get("/docs/other.js")).status == 404

    play(scenario)
