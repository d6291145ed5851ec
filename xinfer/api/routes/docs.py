"""The API's own page. Its script and style come from this server: a browser needs no other host."""

import importlib.resources

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse

from xinfer.errors import NotFound

router = APIRouter(include_in_schema=False)

_FILES = frozenset({"swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"})


@router.get("/docs")
async def docs() -> Response:
    """Swagger UI over ``/openapi.json``."""
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="xinfer",
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="/docs/favicon.png",
    )


@router.get("/docs/{name}")
async def asset(name: str) -> Response:
    """A file of the page."""
    if name not in _FILES:
        raise NotFound(f"the page has no {name!r}")
    return FileResponse(str(importlib.resources.files("fastapi_offline") / "static" / name))
