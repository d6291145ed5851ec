"""What a repository of a hub holds, told without its weights."""

import json

import msgspec
import pytest
from fakes.hub.process import fake_hub

from xinfer.catalog import introspect, shape_of
from xinfer.catalog.remote import remote_spec
from xinfer.catalog.sources import DEMO_FOLDER, hub_source
from xinfer.errors import DownloadFailed, InvalidRequest
from xinfer.settings import Settings

GGUF = "demo-chat/demo-chat.gguf"
CONFIG = DEMO_FOLDER / "demo-chat" / "config.json"


def large() -> bytes:
    """Weights with a header of 200,000 bytes."""
    tensor = {"dtype": "U8", "shape": [9_000_000], "data_offsets": [0, 9_000_000]}
    header = json.dumps({"model.a.weight": tensor}).encode().ljust(200_000)
    return len(header).to_bytes(8, "little") + header + bytes(9_000_000)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with fake_hub(tmp_path_factory.mktemp("hub")) as hub:
        for name in ("demo-chat", "demo-embed", "demo-rerank"):
            root = DEMO_FOLDER / name
            files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
            hub.add(f"me/{name}", {name: path.read_bytes() for name, path in files.items() if path.suffix != ".gguf"})
        gguf = (DEMO_FOLDER / GGUF).read_bytes()
        hub.add("me/ggufs", {"x-Q8_0.gguf": gguf, "x-Q4_K_M.gguf": gguf})
        hub.add("me/large", {"model.safetensors": large(), "config.json": CONFIG.read_bytes()})
        hub.add("me/nothing", {"README.md": b"# Nothing"})
        yield hub


@pytest.fixture
def settings(hub, tmp_path, monkeypatch):
    hub.behave()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return Settings(home=tmp_path, token_file=tmp_path / "token", hf_endpoint=hub.url, ms_endpoint=hub.url)


def look(source, settings):
    return remote_spec(hub_source(source), settings=settings)


@pytest.mark.parametrize("name", ["demo-chat", "demo-embed", "demo-rerank"])
@pytest.mark.parametrize("hub_name", ["hf", "ms"])
def test_it_is_told_as_if_it_were_here(settings, name, hub_name):
    here = introspect(str(DEMO_FOLDER / name), name)
    here = msgspec.structs.replace(here, shape=shape_of(here), source=f"{hub_name}:me/{name}")
    assert look(f"{hub_name}:me/{name}", settings) == here


def test_a_gguf_is_told_by_its_head(settings):
    found = look("hf:me/ggufs#*Q8_0*.gguf", settings)
    here = introspect(str(DEMO_FOLDER / GGUF), "ggufs")
    assert found == msgspec.structs.replace(here, shape=shape_of(here), source="hf:me/ggufs#*Q8_0*.gguf")
    with pytest.raises(InvalidRequest, match="several models: x-Q4_K_M"):
        look("hf:me/ggufs", settings)


def test_of_large_files_the_header_is_enough(hub, settings):
    look("hf:me/demo-chat", settings)
    assert hub.sent["model.safetensors"] <= 64 * 1024
    hub.behave()
    assert look("hf:me/large", settings).weights_mib == 9
    assert 200_000 <= hub.sent["model.safetensors"] <= 200_100 + 64 * 1024


def test_what_cannot_be_told_is_refused(hub, settings):
    with pytest.raises(InvalidRequest, match=r"it has README\.md"):
        look("hf:me/nothing", settings)
    with pytest.raises(DownloadFailed, match="has no me/absent"):
        look("hf:me/absent", settings)
    hub.behave()
    with pytest.raises(InvalidRequest, match="is not in the catalog, and its weights are not on this machine"):
        look("hf:me/demo-chat", msgspec.structs.replace(settings, offline=True))
    assert hub.requests == []
