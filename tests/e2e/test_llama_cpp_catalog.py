"""A model of the catalog by its name, size, format and quantization: one file is downloaded, and answers."""

import importlib.util
import os

import pytest
from e2e.hub_site import say, site_of
from fakes.hub.process import fake_hub

from xinfer.catalog.sources import DEMO_FOLDER

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None
    and "llama.cpp" not in os.environ.get("XINFER_TEST_ENGINES", "").split(),
    reason="llama.cpp is not installed; make test-engines builds its environment",
)
ENVIRONMENTS = os.environ.get("XINFER_TEST_ENVIRONMENTS", "")
REPOSITORY = "unsloth/Qwen3-0.6B-GGUF"
WORDS = ("qwen3", "--size", "0.6b", "--format", "gguf", "--quantization", "Q4_K_M")


def test_a_quantization_of_the_catalog_is_launched_by_its_words(tmp_path):
    if ENVIRONMENTS:
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "environments").symlink_to(ENVIRONMENTS)
    gguf = (DEMO_FOLDER / "demo-chat" / "demo-chat.gguf").read_bytes()
    with fake_hub(tmp_path / "hub") as hub, site_of(hub, tmp_path) as site:
        hub.add(REPOSITORY, {f"Qwen3-0.6B-{name}.gguf": gguf for name in ("Q4_K_M", "Q8_0", "BF16")})
        site.local()
        launched = site.run("launch", *WORDS, "--gpumem", "1200", "--model-engine", "llama.cpp")
        assert launched.returncode == 0, launched.stderr
        assert "qwen3 is ready." in launched.stdout
        assert hub.sent == {"Qwen3-0.6B-Q4_K_M.gguf": len(gguf)}
        assert say(site, "qwen3")["content"]
        (instance,) = site.get("/v1/models/instances?model_uid=qwen3")
        assert (instance["model_format"], instance["quantization"]) == ("gguf", "Q4_K_M")
