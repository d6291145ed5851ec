"""What the routes of one gateway process share."""

import asyncio
from typing import cast

import msgspec
from fastapi import Request

from xinfer.api.cluster_view import ClusterView
from xinfer.api.control import Supervisor
from xinfer.api.gateway import Gateway
from xinfer.settings import Settings
from xinfer.telemetry.metrics import GatewayMetrics


class GatewayState(msgspec.Struct, frozen=True):
    """Kept in ``app.state.gateway_state``."""

    settings: Settings
    gateway: Gateway
    supervisor: Supervisor
    metrics: GatewayMetrics
    cluster: ClusterView = msgspec.field(default_factory=ClusterView)
    ending: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    """Set once this gateway is to end: answers that have begun are finished, but nothing is waited for any more."""


def state_of(request: Request) -> GatewayState:
    """The state of the app that serves this request."""
    return cast(GatewayState, request.app.state.gateway_state)
