"""Interpreters that launches name: what is wrong with one is said before it is started as a replica."""

import asyncio
import sys
import venv
from pathlib import Path

import pytest

from xinfer.errors import EnvironmentFailed
from xinfer.worker.environments.interpreter import foreign
from xinfer.worker.environments.store import EnvironmentStore
from xinfer.worker.environments.trial import require_program, try_out


def tried(root: Path, python: Path) -> str:
    """What is said of it; empty: it can run the engine."""
    try:
        require_program(python)
        asyncio.run(try_out(foreign(EnvironmentStore(root / "environments"), python, {}), "echo"))
    except EnvironmentFailed as error:
        return error.message
    return ""


def program(folder: Path, text: str) -> Path:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_python_with_everything_is_taken(tmp_path: Path) -> None:
    assert tried(tmp_path, Path(sys.executable)) == ""


def test_one_without_packages_says_what_is_missing_and_what_to_do(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    said = tried(tmp_path, tmp_path / "bare" / "bin" / "python")
    assert "cannot run echo: ModuleNotFoundError: No module named" in said
    assert "xinfer builds an environment" in said


def test_one_that_is_too_old_is_told_so(tmp_path: Path) -> None:
    old = "import sys; sys.version_info = (3, 9, 18); exec(sys.argv[2])"
    said = tried(tmp_path, program(tmp_path, f"exec {sys.executable} -c '{old}' \"$@\""))
    assert "it is Python 3.9, and xinfer runs on 3.11 and newer" in said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("exit 0", "it is no Python"),
        ("exit 3", "exit status 3"),
        ("echo not today; exit 1", "not today"),
        ("while :; do echo yes; done", "yes"),
    ],
)
def test_other_programs_are_no_pythons(tmp_path: Path, text: str, reason: str) -> None:
    assert reason in tried(tmp_path, program(tmp_path, text))


def test_what_cannot_be_started_is_said_at_once(tmp_path: Path) -> None:
    assert "there is no Python at" in tried(tmp_path, tmp_path / "nowhere")
    assert "is a folder" in tried(tmp_path, tmp_path)
    no_program = tmp_path / "text"
    no_program.write_text("no program")
    no_program.chmod(0o755)
    assert "Exec format error" in tried(tmp_path, no_program)
