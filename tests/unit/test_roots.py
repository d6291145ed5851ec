"""Which paths models may be read from, wherever such a path comes from."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from fakes.gguf_file import smallest_gguf

from xinfer import plugins
from xinfer.catalog import builtin
from xinfer.catalog.roots import Roots, absolute
from xinfer.devices import Device
from xinfer.errors import InvalidRequest, PathNotAllowed
from xinfer.protocol import EngineOffer, LaunchRequest, Standing, StandingOrder, WorkerHello
from xinfer.replica.standing import Obedience
from xinfer.settings import Settings
from xinfer.spec import Adapter
from xinfer.supervisor.registry import Registry


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def roots(root):
    return Roots([root])


def launch(roots, **words):
    worker = WorkerHello(
        worker_id="w",
        incarnation="1",
        name="w",
        address="w:7000",
        host_id="w",
        version="0",
        devices=(Device(device_id="cpu0", kind="cpu", memory_mib=1000, cores=4),),
        engines={name: EngineOffer(ok=True) for name in ("llama.cpp", "transformers")},
    )
    registry = Registry(builtin(), plugins.engines(), roots=roots)
    return registry.resolve(LaunchRequest(**({"model_name": "mine"} | words)), [worker], now=1.0)


def test_what_is_under_a_root_may_be_read(root, roots):
    (root / "m.gguf").write_bytes(smallest_gguf())
    assert launch(roots, model_path=str(root / "m.gguf")).spec.source == str(root / "m.gguf")
    assert launch(roots, model_name=str(root / "m.gguf")).spec.source == str(root / "m.gguf")
    assert roots.allow(str(root))


@pytest.mark.parametrize(
    "path", ["/etc", "/proc/self/environ", "{root}/../other", "{root}-too", "~nobody-is-this/m", "/a\0b"]
)
def test_anything_else_may_not(root, roots, path):
    path = path.format(root=root)
    with pytest.raises(PathNotAllowed, match="XINFER_MODEL_ROOTS") as refused:
        launch(roots, model_path=path)
    assert refused.value.status == 403
    assert refused.value.param == "model_path"
    assert str(root) in refused.value.message


def test_a_link_counts_as_what_it_leads_to(root, roots, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / "out").symlink_to(elsewhere)
    (elsewhere / "in").symlink_to(root)
    (root / "circle").symlink_to(root / "circle")
    assert not roots.allow(str(root / "out"))
    assert roots.allow(str(elsewhere / "in"))
    assert not roots.allow(str(root / "circle"))


def test_a_refusal_does_not_tell_what_there_is(root, roots, tmp_path):
    (tmp_path / "there").mkdir()
    refusals = []
    for name in ("there", "gone"):
        with pytest.raises(PathNotAllowed) as refused:
            launch(roots, model_path=str(tmp_path / name))
        refusals.append(refused.value.message.replace(name, "*"))
        with pytest.raises(PathNotAllowed):
            launch(roots, model_name=str(tmp_path / name))
    assert len(set(refusals)) == 1


def test_a_bare_name_is_no_path_outside_of_the_roots(roots, tmp_path, monkeypatch):
    (tmp_path / "qwen33").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidRequest, match="did you mean qwen3"):
        launch(roots, model_name="qwen33")


def test_an_adapter_is_read_from_a_root_too(roots):
    with pytest.raises(PathNotAllowed) as refused:
        launch(roots, model_name="demo-chat", model_engine="transformers", adapters=(Adapter(name="a", path="/etc"),))
    assert refused.value.param == "adapters"


def test_sources_that_are_no_path_always_may(roots):
    assert roots.allow("builtin:demo-chat")
    assert roots.allow("hf:Qwen/Qwen3-0.6B")
    assert absolute("hf:Qwen/Qwen3-0.6B") == "hf:Qwen/Qwen3-0.6B"
    with pytest.raises(InvalidRequest, match="nobody here is called so"):
        absolute("~nobody-is-this/m")


def test_the_roots_of_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = {"XINFER_HOME": "/srv/xinfer", "HOME": "/"}
    usual = Settings.from_env(env).root_folders
    assert usual == (Path.home(), Path("/srv/xinfer"), tmp_path)
    named = Settings.from_env(env | {"XINFER_MODEL_ROOTS": "/data/models:~/mine"})
    assert named.root_folders == (Path("/data/models"), Path.home() / "mine")
    assert Roots.of(named).allow("/data/models/m")
    monkeypatch.chdir("/")
    assert Settings.from_env(env).root_folders == (Path.home(), Path("/srv/xinfer")), "never the whole disk unasked"
    inherited = Settings.from_env(Settings.from_env(env).environment())
    assert inherited.root_folders == Settings.from_env(env).root_folders


def test_a_replica_reads_no_adapter_from_elsewhere(roots):
    class Engine:
        name = "toy"
        loaded = False

        async def load_adapter(self, adapter):
            self.loaded = True

    told = []
    engine = Engine()
    obedience = Obedience(engine, told.append, None, None, roots.require)
    order = StandingOrder(adapters=(Adapter(name="a", path="/etc"),))
    asyncio.run(obedience.follow(lambda: order))
    assert not engine.loaded
    assert isinstance(told[-1], Standing)
    assert "XINFER_MODEL_ROOTS" in told[-1].failures[0].reason
    assert msgspec.json.encode(told[-1])
