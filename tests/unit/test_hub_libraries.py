"""The hubs' own libraries at the local hub: it is shaped as theirs, and what they bring is served."""

from pathlib import Path

import pytest
from fakes.hub.process import fake_hub
from fakes.hub.server import TOKEN

from xinfer.catalog import introspect
from xinfer.catalog.sources import DEMO_FOLDER
from xinfer.ops import Kind

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def running_hub(tmp_path_factory):
    with fake_hub(tmp_path_factory.mktemp("hub")) as hub:
        demo = DEMO_FOLDER / "demo-chat"
        hub.add("me/mine", {path.name: path.read_bytes() for path in demo.iterdir() if path.suffix != ".gguf"})
        yield hub


@pytest.fixture
def hub(running_hub, monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    running_hub.behave()
    yield running_hub
    running_hub.behave()


def size_of_weights() -> int:
    return (DEMO_FOLDER / "demo-chat" / WEIGHTS).stat().st_size


def assert_served(folder):
    assert introspect(str(folder)).kind is Kind.LLM
    assert (Path(folder) / WEIGHTS).stat().st_size == size_of_weights()


class TestHuggingFace:
    """With ``huggingface_hub``."""

    def download(self, hub, tmp_path, repository="me/mine", **how):
        library = pytest.importorskip("huggingface_hub")
        return library.snapshot_download(repository, cache_dir=tmp_path / "cache", endpoint=hub.url, **how)

    def test_it_downloads_and_finds_it_again_without_a_network(self, hub, tmp_path):
        assert_served(self.download(hub, tmp_path))
        assert hub.sent[WEIGHTS] == size_of_weights()
        hub.behave()
        assert_served(self.download(hub, tmp_path, local_files_only=True))
        assert hub.requests == []

    def test_a_connection_that_breaks_is_gone_on_with(self, hub, tmp_path):
        hub.behave(cut_after=1_000_000)
        assert_served(self.download(hub, tmp_path))
        assert len([one for one in hub.requests if "/contents/" in one["path"]]) == 2

    def test_refusals_are_the_ones_that_it_knows(self, hub, tmp_path):
        errors = pytest.importorskip("huggingface_hub.errors")
        with pytest.raises(errors.RepositoryNotFoundError):
            self.download(hub, tmp_path, "me/nothing")
        hub.behave(private=True)
        with pytest.raises(errors.RepositoryNotFoundError):
            self.download(hub, tmp_path)
        hub.behave(gated=True)
        with pytest.raises(errors.GatedRepoError):
            self.download(hub, tmp_path)
        assert_served(self.download(hub, tmp_path, token=TOKEN))


class TestModelScope:
    """With ``modelscope``."""

    def download(self, hub, tmp_path, monkeypatch, repository="me/mine"):
        library = pytest.importorskip("modelscope")
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
        monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
        return library.snapshot_download(repository, cache_dir=str(tmp_path / "cache"))

    def test_it_downloads_a_folder_that_is_served_by_its_path(self, hub, tmp_path, monkeypatch):
        assert_served(self.download(hub, tmp_path, monkeypatch))
        assert hub.sent[WEIGHTS] == size_of_weights()

    def test_it_goes_on_with_what_broke_off(self, hub, tmp_path, monkeypatch):
        hub.behave(cut_after=1_000_000)
        assert_served(self.download(hub, tmp_path, monkeypatch))
        assert hub.sent[WEIGHTS] < size_of_weights() + 500_000

    def test_a_wrong_hash_and_no_repository_are_refused(self, hub, tmp_path, monkeypatch):
        hub.behave(lie=WEIGHTS, lies=100)
        with pytest.raises(Exception, match=r"[Hh]ash mismatch|integrity"):
            self.download(hub, tmp_path, monkeypatch)
        hub.behave()
        with pytest.raises(Exception, match="me/nothing"):
            self.download(hub, tmp_path, monkeypatch, "me/nothing")
