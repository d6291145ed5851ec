"""The readers, on folders that are made up."""

from pathlib import Path

import pytest

from xinfer.settings import Settings
from xinfer.worker.diagnosis import read
from xinfer.worker.diagnosis.facts import TorchBuild
from xinfer.worker.diagnosis.read import cards_on_bus, read_cpu, read_machine, read_system, torch_build, torch_builds
from xinfer.worker.environments.plan import Machine
from xinfer.worker.environments.store import EnvironmentRecord, EnvironmentStore

VERSION_FILE = """from typing import Optional
__version__ = '{version}'
debug = False
cuda: Optional[str] = {cuda}
hip: Optional[str] = {hip}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", token_file=tmp_path / "token")


@pytest.mark.parametrize(
    ("cuda", "hip", "build"),
    [
        ("None", "None", TorchBuild(where="w", version="2.13.0")),
        ("'12.8'", "None", TorchBuild(where="w", version="2.13.0", cuda="12.8")),
        ("None", "'6.2'", TorchBuild(where="w", version="2.13.0", is_for_other_accelerators=True)),
    ],
)
def test_what_a_torch_was_built_for(tmp_path: Path, cuda: str, hip: str, build: TorchBuild) -> None:
    file = tmp_path / "version.py"
    file.write_text(VERSION_FILE.format(version="2.13.0", cuda=cuda, hip=hip))
    assert torch_build("w", file) == build


def test_a_torch_that_does_not_say_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "version.py").write_text("nothing")
    assert torch_build("w", tmp_path / "version.py") is None
    assert torch_build("w", tmp_path / "none.py") is None


def test_the_torch_of_an_environment(tmp_path: Path) -> None:
    store = EnvironmentStore(tmp_path)
    name = "vllm-0123456789ab"
    python = store.python(name)
    python.parent.mkdir(parents=True)
    python.touch()
    torch = python.parents[1] / "lib" / "python3.11" / "site-packages" / "torch"
    torch.mkdir(parents=True)
    (torch / "version.py").write_text(VERSION_FILE.format(version="2.9.0", cuda="'12.9'", hip="None"))
    machine = Machine(python="cpython-311", platform="linux-x86_64", accelerator="cuda")
    store.write(EnvironmentRecord(name=name, engine="vllm", version="0.13", machine=machine, packages=()))
    assert TorchBuild(where=name, version="2.9.0", cuda="12.9") in torch_builds(store)


def test_cards_on_the_bus_are_graphics_cards_by_nvidia(tmp_path: Path) -> None:
    for slot, (vendor, kind) in enumerate((("0x10de", "0x030200"), ("0x10de", "0x040300"), ("0x8086", "0x030000"))):
        folder = tmp_path / f"0000:0{slot}:00.0"
        folder.mkdir()
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "class").write_text(f"{kind}\n")
    (tmp_path / "0000:09:00.0").mkdir()
    assert cards_on_bus(tmp_path) == 1
    assert cards_on_bus(tmp_path / "none") == 0


def test_proxies_count_where_they_would_catch_this_machine(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert read_system(settings, "").proxies == ()
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    assert read_system(settings, "").proxies == ("http_proxy",)
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    assert read_system(settings, "").proxies == ()


def test_preloaded_libraries(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "there.so").touch()
    text = f"{tmp_path / 'there.so'}:/gone.so libonpath.so"
    assert read_system(settings, text).preload == (
        (str(tmp_path / "there.so"), True),
        ("/gone.so", False),
        ("libonpath.so", True),
    )


def test_reading_this_machine_changes_nothing(settings: Settings) -> None:
    facts = read_machine(settings)
    assert facts.offers["echo"].ok
    assert [reading.device.kind for reading in facts.inventories["cpu"].devices] == ["cpu"]
    assert read_cpu().host_memory_mib > 0
    assert facts.system.home_writable
    assert not settings.home.exists()
    assert not settings.token_file.exists()


@pytest.mark.parametrize(
    ("switch", "member", "expected"), [("1\n", "0::/\n", True), ("0\n", "0::/\n", False), ("1\n", "1:cpu:/a\n", False)]
)
def test_sessions_come_first_only_outside_of_cgroups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str, member: str, expected: bool
) -> None:
    for name, text in (("AUTOGROUP", switch), ("OWN_CGROUPS", member)):
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(read, name, tmp_path / name)
    monkeypatch.setattr(read, "CGROUP_ROOT", tmp_path / "fs")
    assert read_cpu().sessions_first is expected
    (tmp_path / "AUTOGROUP").unlink()  # a kernel without it
    assert read_cpu().sessions_first is False
