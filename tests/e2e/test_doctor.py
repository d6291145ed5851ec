"""``xinfer doctor`` as a process: on this machine, on cards of a fake driver, with engines that are broken."""

import contextlib
import importlib.metadata
import importlib.util
import json
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import psutil
import pytest
from fakes.nvml import library as fake
from fakes.nvml.library import FakeCard, FakeDriver
from fakes.packages.toys import write_toys
from fakes.packages.wheels import repack, unpack_wheel, write_wheel

from xinfer.worker.hami.annotation import AllocatedDevice, encode

PATIENCE_S = 240
LIBRARIES = ("torch", "transformers", "sentence_transformers")
FIELDS = {"group", "code", "level", "subject", "what", "why", "advice"}

PLUG_IN = """
from xinfer.engines.base import Match
from xinfer.engines.echo.engine import EchoEngine


class Shaky(EchoEngine):
    name = "shaky"

    @classmethod
    def accepts(cls, spec):
        return Match(spec.name in ("echo", "demo-chat", "demo-embed"))

    async def load(self, spec, options, grant, progress):
        print("looking for the kernel module")
        if spec.name == "demo-embed":
            raise RuntimeError("the kernel module is missing")
        await super().load(spec, {}, grant, progress)
"""
ENTRY_POINTS = """
[xinfer.engines]
shaky = shaky_engine:Shaky
gone = shaky_engine:Gone
"""


class Doctor:
    """The command in a site, with folders of its own for everything that it might leave behind."""

    def __init__(self, site, scratch: Path) -> None:
        self.site = site
        self.scratch = scratch
        scratch.mkdir()
        site.env |= {"TMPDIR": str(scratch)}
        site.env.pop("XDG_RUNTIME_DIR", None)

    def run(self, *args: str) -> "subprocess.CompletedProcess[str]":
        with self.site.start("doctor", *args) as process:
            stdout, stderr = process.communicate(timeout=PATIENCE_S)
        return subprocess.CompletedProcess(args, process.returncode, stdout, stderr)

    def examine(self, *args: str) -> dict:
        """The JSON answer, whose shape is always the same."""
        done = self.run("--json", *args)
        assert done.returncode in (0, 1), done.stderr
        diagnosis = json.loads(done.stdout)
        assert set(diagnosis) == {"version", "healthy", "counts", "findings"}
        assert all(set(finding) == FIELDS for finding in diagnosis["findings"])
        assert diagnosis["healthy"] == (done.returncode == 0) == (diagnosis["counts"]["problem"] == 0)
        return diagnosis

    def left(self) -> list[str]:
        """Processes and files that it has left."""
        folders = [str(path) for path in self.scratch.glob("xinfer-doctor-*")]
        return folders + self.commands()

    def commands(self) -> list[str]:
        """Of the processes; one that ends while it is looked at has none."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                found.append(" ".join(process.cmdline()))
        return found

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if str(self.scratch) in process.environ().get("XINFER_HOME", ""):
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture
def doctor(site, tmp_path):
    return Doctor(site, tmp_path / "scratch")


@pytest.fixture(scope="session")
def nvml(tmp_path_factory):
    return fake.compile_nvml(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def driver(doctor, tmp_path, nvml):
    driver = FakeDriver(tmp_path / "cards")
    doctor.site.env |= driver.environment(nvml)
    return driver


def by_code(diagnosis, code):
    return [finding for finding in diagnosis["findings"] if finding["code"] == code]


def test_a_quick_look_starts_nothing_and_changes_nothing(doctor):
    done = doctor.run("--quick")
    assert (done.returncode, done.stderr) == (0, "")
    for title in ("What this machine offers", "What holds replicas to their slices", "Engines", "The running server"):
        assert title in done.stdout
    assert f"no server at {doctor.site.url}" in done.stdout
    assert "0 problems" in done.stdout
    assert doctor.left() == []
    assert not (doctor.site.root / "home").exists()
    assert not (doctor.site.root / "token").exists()


def test_it_reads_well_in_80_columns(doctor):
    doctor.site.env |= {"COLUMNS": "80", "XINFER_HOME": tempfile.gettempdir()}  # a path that is not wrapped, but short
    lines = doctor.run("--quick").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if line != line.rstrip()] == []


@pytest.mark.skipif(not all(map(importlib.util.find_spec, LIBRARIES)), reason="the engines are not installed")
def test_every_installed_engine_knows_the_golden_answers(doctor):
    diagnosis = doctor.examine("--only", "transformers", "--only", "sentence_transformers")
    golden = {finding["subject"]: finding for finding in by_code(diagnosis, "golden")}
    assert set(golden) == {
        "transformers/demo-chat",
        "sentence_transformers/demo-embed",
        "sentence_transformers/demo-rerank",
    }
    assert {finding["level"] for finding in golden.values()} == {"ok"}
    assert "9 of 9 answers right" in golden["transformers/demo-chat"]["what"]
    assert "tokens/s" in golden["transformers/demo-chat"]["what"]
    assert doctor.left() == []


def test_an_engine_that_fails_and_one_that_answers_wrongly_are_shown_with_the_reason(doctor, tmp_path):
    wheel = write_wheel(tmp_path, "shaky-engine", "1.0", {"shaky_engine.py": PLUG_IN}, entry_points=ENTRY_POINTS)
    unpack_wheel(wheel, tmp_path / "installed")
    doctor.site.env["PYTHONPATH"] = str(tmp_path / "installed")
    diagnosis = doctor.examine("--only", "shaky")
    (gone,) = [finding for finding in by_code(diagnosis, "engine") if finding["subject"] == "gone"]
    assert gone["level"] == "problem"
    assert "Gone" in gone["why"][0]
    golden = {finding["subject"]: finding for finding in by_code(diagnosis, "golden")}
    assert golden["shaky/echo"]["level"] == "ok"
    assert golden["shaky/demo-chat"]["level"] == golden["shaky/demo-embed"]["level"] == "problem"
    assert any("instead of" in line for line in golden["shaky/demo-chat"]["why"])
    why = "\n".join(golden["shaky/demo-embed"]["why"])
    assert "the kernel module is missing" in why
    assert "looking for the kernel module" in why, "the end of its log"
    assert doctor.left() == []


def test_an_engine_is_tried_in_its_environment(doctor, tmp_path):
    wheels, installed = tmp_path / "wheels", tmp_path / "installed"
    write_toys(wheels, installed)
    repack(wheels, importlib.metadata.requires("xinfer"), without=("scipy", "uv"))
    doctor.site.env |= {"PYTHONPATH": str(installed), "UV_CACHE_DIR": str(tmp_path / "cache")}
    built = doctor.site.run("engine", "install", "toy_one", "--find-links", str(wheels), "--no-index")
    assert built.returncode == 0, built.stderr
    diagnosis = doctor.examine("--only", "toy_one")
    (engine,) = [finding for finding in by_code(diagnosis, "engine") if finding["subject"] == "toy_one"]
    assert engine["what"].startswith("toy_one 1.0, in the environment toy_one-")
    (golden,) = by_code(diagnosis, "golden")
    assert (golden["subject"], golden["level"]) == ("toy_one/echo", "problem"), "it answers something else"
    assert "not of the shape" in golden["why"][0]
    assert json.loads(doctor.site.run("engine", "list", "--json").stdout)["environments"][0]["state"] == "ready"


def test_an_engine_that_nobody_knows_is_refused(doctor):
    done = doctor.run("--only", "vlm")
    assert done.returncode == 1
    assert "there is no engine 'vlm'; there are: echo, " in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_it_leaves_nothing_running(doctor, wait, number):
    with doctor.site.start("doctor", "--only", "echo") as process:
        wait(lambda: "xinfer.replica" in str(doctor.commands()), "a model is being loaded")
        process.send_signal(number)
        _, stderr = process.communicate(timeout=PATIENCE_S)
    if number == signal.SIGKILL:
        wait(lambda: not doctor.processes(), "its server ends by itself")
        return
    assert process.returncode == 130
    assert "Interrupted. Nothing that it started is left." in stderr
    assert doctor.left() == []


def test_a_container_of_hami_with_two_cards(doctor, driver):
    given = encode(((AllocatedDevice("GPU-a", "NVIDIA", 8000, 30), AllocatedDevice("GPU-b", "NVIDIA", 8000, 30)),))
    doctor.site.env |= {
        "XINFER_HAMI_DEVICES": given,
        "CUDA_DEVICE_MEMORY_LIMIT": "8000m",
        "CUDA_DISABLE_CONTROL": "true",
    }
    driver.show(FakeCard("GPU-a"), FakeCard("GPU-b", more=("capability 8 9",)))
    diagnosis = doctor.examine("--quick")
    cards = {finding["subject"]: finding for finding in by_code(diagnosis, "card")}
    assert set(cards) == {"GPU-a", "GPU-b"}
    assert "a slice by HAMi: 8000 MiB" in cards["GPU-b"]["what"]
    assert any(
        "compute capability 8.9, driver 550.54.15, runs CUDA up to 12.4" in line for line in cards["GPU-b"]["why"]
    )
    (hami,) = by_code(diagnosis, "hami")
    assert "CUDA_DISABLE_CONTROL turns HAMi-core off in this pod" in hami["why"]
    holds = {finding["subject"]: finding for finding in by_code(diagnosis, "hold")}
    assert any(line.startswith("not mps: no MPS control daemon") for line in holds["GPU-a"]["why"])
    assert "CUDA_DISABLE_CONTROL" in holds["GPU-a"]["advice"]


def test_a_driver_of_another_version_than_its_libraries(doctor, driver):
    driver.show(FakeCard("GPU-a"), more=("init 18",))
    diagnosis = doctor.examine("--quick")
    (finding,) = by_code(diagnosis, "accelerators")
    assert finding["level"] == "problem"
    assert "restart the machine" in finding["why"][0]


def test_a_running_server_is_looked_at(doctor, wait):
    site = doctor.site
    site.local()
    site.launch("echo")
    site.launch("echo", model_uid="sick", wait_ready=False, fail_load="no such chip")
    wait(lambda: site.get("/v1/models/sick/progress")["done"], "it has failed")
    diagnosis = doctor.examine("--quick")
    told = {finding["code"]: finding for finding in diagnosis["findings"] if finding["group"] == "server"}
    assert [told[code]["level"] for code in ("version", "token", "worker", "model")] == ["ok", "ok", "ok", "problem"]
    assert "no such chip" in told["model"]["why"][0]

    site.env["XINFER_TOKEN_FILE"] = str(site.root / "other")
    (site.root / "other").write_text("not the same")
    (token,) = by_code(doctor.examine("--quick"), "token")
    assert token["level"] == "warning"


def test_something_else_on_the_port_is_a_problem(doctor):
    with socket.create_server(("127.0.0.1", doctor.site.port)) as listening:
        listening.listen()
        (contact,) = by_code(doctor.examine("--quick"), "contact")
    assert contact["level"] == "problem"
    assert "another program answers" in contact["what"]
