"""Build an environment for each engine and run its tests there, one engine after the other: ``make test-engines``.

    python tools/engine_tests.py vllm sglang                 # only these
    python tools/engine_tests.py mlx --pytest="-x -k stop"   # with arguments for pytest

Per engine: the contract that all engines keep, with real processes (``tests/e2e``), then the engine's own tests
(``tests/engines``) on the Python of its environment; at the end, engines that cannot share an environment, at once. A
table says what ran. Exit status 1: something failed, took too long, or was skipped. An engine that was asked for is
there, so its tests have no reason to skip.
"""

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
PACKAGES = ("pytest", "hypothesis", "openai", "gguf", "safetensors", "transformers", "torch")
"""What an engine's own tests need beside it, see ``pinned``."""
QUANTIZERS = ("accelerate==1.15.0", "bitsandbytes==0.50.2", "compressed-tensors==0.20.1")
"""What transformers reads quantized weights with. It is in the base environment, and these are not."""
CONTRACT = ("test_engine_contract.py", "test_engine_failures.py", "test_pooling_contract.py", "test_speech.py")
TOGETHER = ("vllm", "sglang")
"""Engines of which no two fit into one environment; they are also tested side by side."""
BUILD_LIMIT_S = 1800
"""llama.cpp is compiled: 4 to 10 minutes on two cores."""
TESTS_LIMIT_S = 2400
STUCK_S = 400
"""After so long in one test, where it hangs is printed."""
GRACE_S = 60
"""For tests that were interrupted to stop the servers that they have started."""
NOT_FOR_IT = ("got empty parameter set", "could not import 'gptqmodel'")
"""Why tests may skip: the contract is not for this engine; a library needs another torch."""
NOTHING_RAN = 5
"""The exit status of pytest where all tests were deselected."""


NO_TESTS = "there are no tests of it"
"""A name that no test knows makes every test one for other engines, and those may skip."""


@dataclass
class Step:
    """One line of the table."""

    engine: str
    what: str
    seconds: float = 0.0
    passed: int = 0
    complaints: list[str] = field(default_factory=list)
    """Why it counts as failed."""

    def __str__(self) -> str:
        """As it stands in the table."""
        passed = f"{self.passed} passed" if self.passed else ""
        verdict = "FAILED" if self.complaints else "ok"
        return f"{self.engine:<14}{self.what:<16}{verdict:<8}{self.seconds:>6.0f} s  {passed}"


class Session:
    """All steps of one call."""

    def __init__(self, home: Path, pytest_arguments: Sequence[str]) -> None:
        self._environments = home / "environments"
        self._home = home
        self._pytest_arguments = pytest_arguments
        self.steps: list[Step] = []

    def test(self, engine: str) -> None:
        """Build its environment and run its tests in it."""
        python = self._build(engine, PACKAGES)
        if python is None:
            return
        name = engine.replace(".", "_")
        contract = [ROOT / "tests" / "e2e" / file for file in CONTRACT]
        contract += sorted((ROOT / "tests" / "e2e").glob(f"test_{name}_*.py"))
        self._run(Step(engine, "contract"), Path(sys.executable), contract, self._asking_for(engine))
        own = sorted((ROOT / "tests" / "engines").glob(f"test_{name}_*.py"))
        self._run(Step(engine, "its own tests"), python, own, {"PYTHONPATH": str(ROOT)})

    def test_quantized(self) -> None:
        """Quantized weights on transformers, whose other tests need no environment."""
        python = self._build("transformers", (*PACKAGES, *QUANTIZERS))
        if python is not None:
            files = [ROOT / "tests" / "engines" / "test_transformers_quantized.py"]
            self._run(Step("transformers", "its own tests"), python, files, {"PYTHONPATH": str(ROOT)})

    def test_together(self, engines: Sequence[str]) -> None:
        """Several engines on one worker."""
        files = [ROOT / "tests" / "e2e" / "test_engines_together.py"]
        self._run(Step("all", "side by side"), Path(sys.executable), files, self._asking_for(*engines))

    def _build(self, engine: str, packages: Sequence[str]) -> Path | None:
        step = Step(engine, "environment")
        self.steps.append(step)
        title(f"{engine}: its environment")
        if engine == "llama.cpp" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            step.complaints.append("it is compiled, and there is no C++ compiler here: apt-get install g++")
            return None
        started = time.monotonic()
        wanted = [word for package in pinned(packages) for word in ("--package", package)]
        argv = [str(BIN / "xinfer"), "engine", "install", engine, *wanted]
        status, said = run(argv, {"XINFER_HOME": str(self._home), "COLUMNS": "200"}, BUILD_LIMIT_S, listen=True)
        step.seconds = time.monotonic() - started
        found = re.search(r" is ready in (\S+): ", said)
        if status != 0 or found is None:
            step.complaints.append(reason(status, BUILD_LIMIT_S))
            return None
        return self._environments / found[1] / "venv" / "bin" / "python"

    def _asking_for(self, *engines: str) -> dict[str, str]:
        return {"XINFER_TEST_ENGINES": " ".join(engines), "XINFER_TEST_ENVIRONMENTS": str(self._environments)}

    def _run(self, step: Step, python: Path, files: Sequence[Path], variables: Mapping[str, str]) -> None:
        self.steps.append(step)
        title(f"{step.engine}: {step.what}")
        if not files:  # pytest would run everything
            step.complaints.append(NO_TESTS)
            return
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            options = [f"--junit-xml={report}", "-o", f"faulthandler_timeout={STUCK_S}", "--durations=5"]
            argv = [str(python), "-m", "pytest", *map(str, files), *options, *self._pytest_arguments]
            status, _ = run(argv, variables, TESTS_LIMIT_S)
            step.passed, skipped = counted(report) if report.exists() else (0, [])
        step.seconds = time.monotonic() - started
        if status != 0 and not (status == NOTHING_RAN and self._pytest_arguments):
            step.complaints.append(reason(status, TESTS_LIMIT_S))
        step.complaints += [f"skipped: {why}" for why in skipped]
        if not (step.passed or step.complaints or self._pytest_arguments):
            step.complaints.append(NO_TESTS)


def pinned(packages: Sequence[str]) -> list[str]:
    """In the versions of ``constraints.txt``: what others release must not change what the tests say."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    versions = {line.partition("==")[0]: line for line in lines if "==" in line}
    return [versions.get(package, package) for package in packages]


def run(argv: Sequence[str], variables: Mapping[str, str], limit_s: float, *, listen: bool = False) -> tuple[int, str]:
    """Its exit status and, if ``listen``, its stdout. After ``limit_s`` it is interrupted, then killed."""
    process = subprocess.Popen(  # noqa: S603 - our own commands
        argv,
        cwd=ROOT,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE if listen else None,
        text=True,
    )
    try:
        said, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        return -signal.SIGALRM, interrupted(process)
    except SystemExit:  # we are to end
        interrupted(process)
        raise
    if listen:
        print(said, end="", flush=True)
    return process.returncode, said or ""


def interrupted(process: "subprocess.Popen[str]") -> str:
    """End a process as ctrl-C does, so that tests stop what they have started; what it printed."""
    process.send_signal(signal.SIGINT)
    try:
        said, _ = process.communicate(timeout=GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
    return said or ""


def reason(status: int, limit_s: float) -> str:
    """An exit status in words."""
    return f"not within {limit_s / 60:.0f} minutes" if status == -signal.SIGALRM else f"exit status {status}"


def counted(report: Path) -> tuple[int, list[str]]:
    """How many tests a report of pytest has that passed, and why others were skipped."""
    passed, skipped = 0, []
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - pytest has just written it
        if (skip := case.find("skipped")) is not None:
            why = skip.get("message", "")
            if not why.startswith(NOT_FOR_IT):
                skipped.append(f"{case.get('name')}: {why}")
        elif case.find("failure") is None and case.find("error") is None:
            passed += 1
    return passed, skipped


def title(text: str) -> None:
    """A line that can be found in a long log."""
    print(f"\n==== {time.strftime('%H:%M:%S')} {text} ====", flush=True)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="+", metavar="ENGINE", help="an engine, as xinfer engine list names it")
    parser.add_argument("--home", type=Path, default=ROOT / ".venv" / "engines", help="where environments are kept")
    parser.add_argument("--pytest", default="", metavar="ARGUMENTS", help="for every run of pytest, as one word")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    session = Session(arguments.home.absolute(), shlex.split(arguments.pytest))
    for engine in arguments.engines:
        if engine == "transformers":
            session.test_quantized()
        else:
            session.test(engine)
    if set(TOGETHER) <= set(arguments.engines):
        session.test_together(TOGETHER)
    title("summary")
    for step in session.steps:
        print(step)
        for complaint in step.complaints:
            print(f"    {complaint}")
    return 1 if any(step.complaints for step in session.steps) else 0


if __name__ == "__main__":
    sys.exit(main())
