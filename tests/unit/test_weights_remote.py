"""What a repository of a hub holds, told without its weights."""

import json

import msgspec
import pytest
from fakes.hub.process import fake_hub

from xinfer.catalog import introspect, remote, shape_of
from xinfer.catalog.hubs import Absent, Unreachable
from xinfer.catalog.remote import hub_sources, published, remote_spec
from xinfer.catalog.sources import DEMO_FOLDER, hub_source
from xinfer.errors import DownloadFailed, InvalidRequest
from xinfer.settings import Settings
from xinfer.spec import Format

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
        hub.add("me/letters", {"config.json": b"letters", "model.safetensors": large()})
        hub.add("me/nothing", {"README.md": b"# Nothing"})
        yield hub


@pytest.fixture
def settings(hub, tmp_path, monkeypatch):
    hub.behave()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return Settings(home=tmp_path, token_file=tmp_path / "token", hf_endpoint=hub.url, ms_endpoint=hub.url)


def look(source, settings):
    return remote_spec(sources(source, settings), settings=settings)


def sources(name, settings):
    remote = hub_source(name)
    return (remote,) if remote else hub_sources(name, settings)


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
    with pytest.raises(InvalidRequest, match=r"hf:me/letters/config\.json is no JSON") as refused:
        look("hf:me/letters", settings)
    assert "/tmp" not in refused.value.message


def test_a_bare_id_is_looked_for_on_one_hub_after_the_other(hub, settings):
    assert look("me/demo-chat", settings).source == "hf:me/demo-chat"
    only = msgspec.structs.replace(settings, model_src="modelscope")
    assert look("me/demo-chat", only).source == "ms:me/demo-chat"
    away = msgspec.structs.replace(settings, hf_endpoint="http://127.0.0.1:1")
    assert look("me/demo-chat", away).source == "ms:me/demo-chat"
    assert look("me/ggufs@master#*Q8_0*", msgspec.structs.replace(only)).quantization
    assert sources("neither/an/id", settings) == sources("../up", settings) == sources("name", settings) == ()


def test_what_no_hub_has_is_said_once(hub, settings):
    with pytest.raises(Absent) as refused:
        look("me/absent", settings)
    assert refused.value.message == (
        "no hub has a repository 'me/absent', or not for us: asked were 127.0.0.1 (404) and 127.0.0.1 (404). If it is "
        "private, start the supervisor and the workers with HF_TOKEN or MODELSCOPE_API_TOKEN"
    )
    nowhere = msgspec.structs.replace(settings, hf_endpoint="http://127.0.0.1:1", ms_endpoint="http://127.0.0.1:1")
    with pytest.raises(Unreachable, match=r"cannot be reached for me/absent: .*cannot be reached for me/absent"):
        look("me/absent", nowhere)
    one_away = msgspec.structs.replace(settings, hf_endpoint="http://127.0.0.1:1")
    with pytest.raises(DownloadFailed, match="cannot be reached") as half:
        look("me/absent", one_away)
    assert not isinstance(half.value, Absent)


def test_a_hub_that_says_nothing_is_not_waited_for(hub, settings, monkeypatch):
    monkeypatch.setattr(remote, "LISTING_S", 0.05)
    hub.behave(silent=True)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1 does not answer for me/mine within 0\.05 s"):
        look("hf:me/mine", settings)
    hub.behave()


def test_a_hub_that_wants_to_be_left_alone_is_not_waited_for(hub, settings):
    hub.behave(status=429, retry_after=30)
    with pytest.raises(DownloadFailed, match="answers 429 for me/demo-chat; try again in 30 s"):
        look("hf:me/demo-chat", settings)
    assert len(hub.requests) == 1


def test_the_format_is_told_by_the_list_alone(hub, settings):
    assert published(sources("me/ggufs", settings), settings) == (hub_source("hf:me/ggufs"), Format.GGUF)
    assert published(sources("ms:me/demo-chat", settings), settings)[1] is Format.SAFETENSORS
    assert hub.sent == {}
