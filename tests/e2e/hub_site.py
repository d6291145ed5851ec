"""A site whose hubs are a local one, and what is asked of it while weights are downloaded."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from e2e.conftest import Site, site_in
from fakes.hub.process import FakeHub

from xinfer.catalog.sources import DEMO_FOLDER

REPOSITORY = "Qwen/Qwen3-0.6B"
LAUNCH = {"model_size_in_billions": "0.6", "model_format": "pytorch", "quantization": "none", "gpumem": 900}
"""The words for its weights there, and as much memory as the small model needs that we put there."""
WEIGHTS = "model.safetensors"
SETTINGS = {"heartbeat_s": 0.3, "worker_timeout_s": 2.0, "settle_s": 1.0, "device_period_s": 0.2}


@contextlib.contextmanager
def site_of(hub: FakeHub, root: Path) -> Iterator[Site]:
    """A site that knows this hub and no other."""
    hub.behave()
    with site_in(root, hf_endpoint=hub.url, ms_endpoint=hub.url, **SETTINGS) as site:
        for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE"):
            site.env.pop(name, None)
        site.env |= {"HF_HOME": str(root / "hf"), "NO_PROXY": "127.0.0.1,localhost"}
        yield site


def demo_files() -> dict[str, bytes]:
    """A small chat model, as a repository has it."""
    folder = DEMO_FOLDER / "demo-chat"
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".gguf"}


def size_of_weights() -> int:
    return (DEMO_FOLDER / "demo-chat" / WEIGHTS).stat().st_size


def say(site: Site, uid: str) -> dict[str, Any]:
    """The answer of a model to a greeting."""
    body = {"model": uid, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    answer = site.call("POST", "/v1/chat/completions", json=body).raise_for_status().json()
    return dict(answer["choices"][0]["message"])


def progress(site: Site, uid: str) -> dict[str, Any]:
    """How far a launch is; nothing while nobody says."""
    return site.get_or_none(f"/v1/models/{uid}/progress") or {"stage": "", "download_files": [], "replicas": []}


def downloaded(site: Site, uid: str) -> int:
    """Bytes of the weights that a replica of it waits for."""
    files = progress(site, uid)["download_files"]
    return next((file["downloaded"] for file in files if file["name"] == WEIGHTS), 0)
