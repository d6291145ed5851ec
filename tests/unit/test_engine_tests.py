"""``tools/engine_tests.py``: what it makes of a run of pytest, and of a command that does not end."""

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "engine_tests.py"
TESTS = """
import importlib.util
import pytest

@pytest.mark.parametrize("case", [])
def test_not_for_this_engine(case): ...

def test_of_a_missing_engine():
    pytest.importorskip("no_such_engine")

def test_that_passes(): ...

def test_that_fails():
    assert False
"""


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("engine_tests", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_who_skips_for_want_of_its_engine_has_failed(tool, tmp_path):
    tests, report = tmp_path / "test_toys.py", tmp_path / "report.xml"
    tests.write_text(TESTS)
    argv = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", f"--junit-xml={report}", str(tests)]
    status, said = tool.run(argv, {}, 60, listen=True)
    assert status == 1
    assert "1 failed, 1 passed, 2 skipped" in said
    passed, skipped = tool.counted(report)
    assert passed == 1
    assert len(skipped) == 1
    assert "no_such_engine" in skipped[0]


def test_an_engine_that_no_test_is_for_has_failed(tool, tmp_path, monkeypatch):
    for_others = "import pytest\n@pytest.mark.parametrize('case', [])\ndef test_of_others(case): ...\n"
    (tmp_path / "tests" / "e2e").mkdir(parents=True)
    for file in tool.CONTRACT:
        (tmp_path / "tests" / "e2e" / file).write_text(for_others)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool.Session, "_build", lambda *_: Path(sys.executable))
    session = tool.Session(tmp_path / "home", [])
    session.test("misspelt")
    assert [step.complaints for step in session.steps] == [[tool.NO_TESTS], [tool.NO_TESTS]]


def test_packages_for_tests_are_pinned(tool):
    bare = [package for package in (*tool.PACKAGES, *tool.QUANTIZERS) if "==" not in package]
    assert all("==" in package for package in tool.pinned(bare))


def test_what_takes_too_long_is_interrupted_so_that_it_can_clear_up(tool):
    waits = (
        "import signal\ntry: print('begun', flush=True); signal.pause()\nexcept KeyboardInterrupt: print('cleared up')"
    )
    with subprocess.Popen([sys.executable, "-c", waits], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        assert tool.interrupted(process) == "cleared up\n"
    status, _ = tool.run(["sleep", "3600"], {}, 0.1)
    assert status == -signal.SIGALRM
    assert tool.reason(status, 1200) == "not within 20 minutes"


def test_the_table_says_what_failed(tool):
    good = tool.Step("vllm", "contract", 131.2, 44)
    bad = tool.Step("sglang", "environment", 3.0, complaints=["exit status 1"])
    assert str(good).split() == ["vllm", "contract", "ok", "131", "s", "44", "passed"]
    assert "FAILED" in str(bad)
