"""The gateway's application: FastAPI for managing, raw ASGI for the hot routes, one lifespan for both."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from xinfer import __version__, garbage, plugins
from xinfer.api import errors
from xinfer.api.bodies import Receive, Scope, Send, limited, read_form, read_json
from xinfer.api.control import Supervisor, follow_routes
from xinfer.api.documentation import ERRORS, add_hot_routes
from xinfer.api.gateway import Gateway
from xinfer.api.hot import Hot
from xinfer.api.relay import HotRoute
from xinfer.api.state import GatewayState
from xinfer.settings import Settings, cluster_token
from xinfer.telemetry.metrics import GatewayMetrics

DESCRIPTION = "Every kind of model behind one OpenAI-compatible endpoint."


class GatewayApp(FastAPI):
    """FastAPI, but what is for a hot route goes straight to its ASGI application."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hot: dict[str, HotRoute] = {}
        self.documented: list[Hot] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Dispatch one connection."""
        if scope["type"] == "http":
            route = self.hot.get(scope["path"])
            if route is not None:
                await route(scope, receive, send)
                return
            receive = limited(receive, scope, self.state.settings.max_body_bytes)
        await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """The schema of all routes, the hot ones included."""
        if self.openapi_schema is None:
            schema = get_openapi(
                title=self.title, version=self.version, description=self.description, routes=self.routes
            )
            self.openapi_schema = add_hot_routes(schema, self.documented)
        return self.openapi_schema


def create_app(settings: Settings, *, policy: str = "least_loaded", shared_metrics: bool = False) -> GatewayApp:
    """A gateway. It follows the supervisor of ``settings.home`` from start-up to shutdown."""
    app = GatewayApp(
        title="xinfer",
        version=__version__,
        description=DESCRIPTION,
        lifespan=_lifespan,
        redirect_slashes=False,
        docs_url=None,  # ours is in routes/docs.py and needs no foreign host
        redoc_url=None,
        responses=ERRORS,
    )
    errors.install(app)
    app.state.settings = settings
    app.state.policy = policy
    app.state.metrics = GatewayMetrics(shared=shared_metrics)
    for module in plugins.modules_in("xinfer.api.routes"):
        if hasattr(module, "router"):
            app.include_router(module.router)
        if hasattr(module, "HOT"):
            app.documented.append(module.HOT)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    assert isinstance(app, GatewayApp)
    settings: Settings = app.state.settings
    supervisor = Supervisor(settings.home)
    gateway = Gateway(
        cluster_token(settings),
        recover_wait_s=settings.recover_wait_s,
        policy=app.state.policy,
        wake_wait_s=settings.wake_wait_s,
        wake=lambda uid: supervisor.call("wake", uid),
    )
    state = GatewayState(settings, gateway, supervisor, app.state.metrics)
    app.state.gateway_state = state
    for hot in app.documented:
        read = read_form if hot.is_form else read_json
        route = HotRoute(hot.op, gateway, state.metrics, settings.max_body_bytes, read)
        app.hot.update(dict.fromkeys(hot.paths, route))
    following = asyncio.create_task(follow_routes(state.supervisor, lambda: gateway.table, gateway.update))
    garbage.settle()
    try:
        yield
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await gateway.close()
