"""What the name, id or path of a launch can mean, with hubs and workers that are played."""

import msgspec
import pytest

from xinfer.catalog import builtin
from xinfer.catalog.hubs import Absent
from xinfer.catalog.registered import read_registration
from xinfer.catalog.roots import Roots
from xinfer.catalog.sources import DEMO_FOLDER, Hub, HubSource, hub_source
from xinfer.errors import DownloadFailed, InvalidRequest
from xinfer.ops import Kind
from xinfer.protocol import LaunchRequest
from xinfer.spec import Format, ModelShape, ModelSpec
from xinfer.supervisor.meaning import Meanings
from xinfer.supervisor.registrations import checked_registration

SHAPE = ModelShape(layers=2, hidden=64)


class Played:
    """Hubs and workers that have ``there``: specs by source or path. What was asked for is kept."""

    def __init__(self, *there):
        self.there = {spec.source: spec for spec in there}
        self.asked = []
        self.error = None

    def sources(self, name):
        hubs = [f"{hub}:{name}" for hub in Hub]
        return tuple(filter(None, map(hub_source, hubs))) if "/" in name and not name.startswith("/") else ()

    def repository(self, sources, _kinds):
        self.asked.append(tuple(map(str, sources)))
        if self.error:
            raise self.error
        found = [self.there[str(source)] for source in sources if str(source) in self.there]
        if not found:
            raise Absent("no hub has it")
        return found[0]

    def published(self, sources):
        spec = self.repository(sources, ())
        return hub_source(spec.source), spec.format

    def path(self, path, _name, _kinds):
        return self.there.get(path)


def spec(source, **fields):
    return ModelSpec(name="mine", kind=Kind.LLM, source=source, format=Format.SAFETENSORS, shape=SHAPE, **fields)


def meanings(*there, roots=(DEMO_FOLDER,), models=None):
    played = Played(*there)
    return Meanings(models or builtin(), Roots(roots), played), played


def meant(found, name, **words):
    return found.of(LaunchRequest(model_name=name, **words))


def test_an_id_is_what_the_first_hub_has_that_has_it():
    found, played = meanings(spec("ms:me/mine"))
    assert meant(found, "me/mine") == ((spec("ms:me/mine"),), "it is ms:me/mine")
    assert played.asked == [("hf:me/mine", "ms:me/mine")]
    assert meant(found, "ms:me/mine").found == "", "the launch says it itself"


def test_a_folder_of_that_name_under_a_root_goes_first(tmp_path):
    (tmp_path / "me").mkdir()
    (tmp_path / "me" / "mine").symlink_to(DEMO_FOLDER / "demo-chat")
    found, played = meanings(roots=(DEMO_FOLDER, tmp_path))
    (local,), where = meant(found, "me/mine")
    assert local.source == str(tmp_path / "me" / "mine")
    assert where == f"it is the folder {tmp_path}/me/mine"
    assert played.asked == []


def test_ids_of_the_catalog_need_no_hub():
    found, played = meanings()
    specs, where = meant(found, "BAAI/bge-m3")
    assert (specs[0].name, where) == ("bge-m3", "")
    assert played.asked == []


def test_a_revision_or_files_of_an_id_are_not_those_of_the_catalog():
    source = "hf:BAAI/bge-m3@v2"
    found, _ = meanings(spec(source))
    assert meant(found, source).specs == (spec(source),)
    (only,) = found.weights(LaunchRequest(model_name=source))
    assert str(only.source) == source


def test_what_no_hub_has_may_be_meant_otherwise():
    found, _ = meanings()
    with pytest.raises(
        InvalidRequest, match=r"no hub has it; nor is there a folder .*; did you mean qwen3 or .* of the catalog\?"
    ):
        meant(found, "Qwen/Qwen3-0.5B")
    with pytest.raises(InvalidRequest, match=r"did you mean mistral-instruct-v0\.2 or mistral-instruct-v0\.3 or"):
        meant(found, "mistral")


def test_hubs_that_do_not_say_are_no_fault_of_the_request():
    found, played = meanings()
    played.error = DownloadFailed("no route")
    with pytest.raises(DownloadFailed, match="no route"):
        meant(found, "me/mine")


def test_a_path_of_the_workers_is_seen_by_them(tmp_path):
    path = str(tmp_path / "far")
    found, _ = meanings(spec(path), roots=(tmp_path,))
    assert meant(found, "mine", model_path=path).specs == (spec(path),)
    with pytest.raises(InvalidRequest, match="there is nothing at"):
        meant(found, "mine", model_path=str(tmp_path / "nowhere"))


def test_what_is_registered_far_away_is_completed_there(tmp_path):
    path = str(tmp_path / "far")
    document = {"name": "mine", "kind": "LLM", "variants": [{"format": "safetensors", "source": path}]}
    models = Registered(read_registration(document).entry.specs)
    found, _ = meanings(spec(path, context_length=77), roots=(tmp_path,), models=models)
    assert meant(found, "mine").specs[0].context_length == 77


def test_a_registered_id_is_read_from_its_hub_before_it_is_launched():
    registered = msgspec.structs.replace(spec("hf:me/mine"), shape=None)
    found, played = meanings(spec("hf:me/mine", context_length=77))
    assert found.read(registered).context_length == 77
    played.error = DownloadFailed("no route")
    assert found.read(registered) == registered


def test_an_id_is_registered_for_all_hubs(tmp_path):
    document = {"name": "mine", "kind": "LLM", "variants": [{"format": "safetensors", "source": "me/mine"}]}
    (read,) = checked_registration(document, (Kind.LLM,), Roots([tmp_path])).entry.specs
    assert (read.source, read.mirrors) == ("hf:me/mine", ("ms:me/mine",))
    (tmp_path / "me" / "mine").mkdir(parents=True)
    (read,) = checked_registration(document, (Kind.LLM,), Roots([tmp_path])).entry.specs
    assert read.source == str(tmp_path / "me" / "mine")


def test_weights_to_pull_are_meant_in_the_words_of_a_launch():
    found, played = meanings(spec("ms:me/mine"))
    words = {"model_size_in_billions": "0.6b", "model_format": "gguf", "quantization": "Q8_0"}
    first, *_ = found.weights(LaunchRequest(model_name="qwen3", **words))
    assert (first.source.repository, first.format) == ("unsloth/Qwen3-0.6B-GGUF", Format.GGUF)
    assert played.asked == []
    sets = found.weights(LaunchRequest(model_name="me/mine"))
    assert [str(one.source) for one in sets] == ["ms:me/mine", "hf:me/mine"]
    sets = found.weights(LaunchRequest(model_name="me/other", model_format="gguf"))
    assert [(one.source, one.format) for one in sets] == [
        (HubSource(hub, "me/other"), Format.GGUF) for hub in (Hub.HUGGINGFACE, Hub.MODELSCOPE)
    ]
    for name, why in (("demo-chat", "nothing to download"), ("me/none", "no hub has it"), ("nobody", "in the catalog")):
        with pytest.raises(InvalidRequest, match=why):
            found.weights(LaunchRequest(model_name=name))


class Registered:
    """One registered model."""

    def __init__(self, specs):
        self._specs = specs

    def names(self):
        return ["mine"]

    def find(self, name):
        return self._specs if name == "mine" else ()

    def in_repository(self, _repository):
        return ()

    def similar(self, _name):
        return []
