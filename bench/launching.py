"""Launching a model in a server that has just started: its worker may take a moment longer to join."""

import json
import time
from typing import Any

from xinference_client import Refused, ask

LAUNCH_PATH = "/v1/models?wait_ready=true"
JOIN_LIMIT_S = 60.0
POLL_S = 0.05


async def launch(port: int, body: dict[str, Any]) -> None:
    """Launch a model, and return once it serves.

    Raises:
        Refused: it cannot be launched, or no worker has joined.
    """
    deadline = time.perf_counter() + JOIN_LIMIT_S
    while True:
        try:
            await ask(port, LAUNCH_PATH, json.dumps(body).encode())
        except Refused as refused:
            if "no worker" not in str(refused) or time.perf_counter() > deadline:
                raise
            time.sleep(POLL_S)  # noqa: ASYNC251 - nothing else runs in this loop
        else:
            return
