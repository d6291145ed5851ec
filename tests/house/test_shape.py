"""Reads the shape of the code. ``pytest -s tests/house`` prints the longest files and functions to look at.

Length alone is a sign to look, not a wall to build around: the tests fail only far beyond what is comfortable (400
lines a file, 60 a function, 12 public methods a class). What they refuse at once is a mark that has no good reason.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "xinfer"

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 100
MAX_PUBLIC_METHODS = 20
MAX_POSITIONAL = 6

CATCHES_EVERYTHING = {
    "xinfer/engines/batch_engine.py::BatchWorker._attempt": "the engine's thread: the requests of the batch get it",
    "xinfer/engines/batch_engine.py::BatchWorker._live": "the engine's thread: whoever started it gets it",
    "xinfer/engines/token_engine/loop.py::StepLoop._run": "the engine's thread: nobody else would tell those who wait",
    "xinfer/engines/whisper/worker.py::_advance": "the engine's thread: whose recording it was gets it",
    "xinfer/plugins.py::_find_engines": "code of third parties: reported as a broken engine",
    "xinfer/replica/runtime.py::Replica._close": "the engine: a process that ends, ends",
    "xinfer/replica/runtime.py::Replica._load": "the engine: whatever it is, it is the reason that the user reads",
    "xinfer/replica/standing.py::Obedience._load": "the engine: the adapter's failure is reported, the rest is served",
    "xinfer/replica/standing.py::Obedience._sleep": "the engine: that it stays awake is reported, and it serves",
    "xinfer/replica/server.py::GatewayConnection._serve": "the engine: the client gets it, and the log",
    "xinfer/supervisor/shell.py::_reported": "a task that nobody awaits: the log gets it",
    "xinfer/worker/environments/here.py::available_here": "code of third parties: reported as not available",
}
"""file::function -> why nothing may escape there. A handler that raises again needs no entry."""

READS_ENVIRONMENT = {
    "xinfer/settings.py": "the one place where settings come from",
    "xinfer/processes.py": "where the operating system keeps sockets of this user (XDG_RUNTIME_DIR)",
}

ENGINE_LIBRARIES = (
    "torch",
    "transformers",
    "sentence_transformers",
    "tokenizers",
    "vllm",
    "sglang",
    "llama_cpp",
    "mlx",
)


class Source(NamedTuple):
    """One file of ours."""

    name: str
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        return self.text.count("\n")


class Piece(NamedTuple):
    """A function or a class in a file, by its full name."""

    where: str
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

    @property
    def lines(self) -> int:
        return (self.node.end_lineno or self.node.lineno) - self.node.lineno + 1


def read(*folders: str) -> list[Source]:
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    sources = []
    for path in paths:
        text = path.read_text()
        sources.append(Source(path.relative_to(ROOT).as_posix(), text, ast.parse(text)))
    return sources


def pieces(source: Source) -> Iterator[Piece]:
    """Every function and class, named ``file::Class.method``."""

    def inside(node: ast.AST, prefix: str) -> Iterator[Piece]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield Piece(f"{source.name}::{prefix}{child.name}", child)
                yield from inside(child, f"{prefix}{child.name}.")
            else:
                yield from inside(child, prefix)

    yield from inside(source.tree, "")


def functions(sources: list[Source]) -> list[Piece]:
    return [piece for source in sources for piece in pieces(source) if not isinstance(piece.node, ast.ClassDef)]


def public_methods(piece: Piece) -> int:
    return sum(
        isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_")
        for child in piece.node.body
    )


@pytest.fixture(scope="module")
def package() -> list[Source]:
    return read("xinfer")


@pytest.fixture(scope="module")
def everything() -> list[Source]:
    return read("xinfer", "tests", "tools", "bench")


def report(sources: list[Source], count: int = 12) -> str:
    """The longest files and functions and the widest classes, longest first."""

    def table(title: str, rows: list[tuple[int, str]]) -> str:
        return "\n".join([title, *(f"  {number:5}  {name}" for number, name in sorted(rows, reverse=True)[:count])])

    classes = [piece for source in sources for piece in pieces(source) if isinstance(piece.node, ast.ClassDef)]
    total = sum(source.lines for source in sources)
    return "\n".join(
        [
            f"\n{len(sources)} files, {total} lines",
            table("longest files", [(source.lines, source.name) for source in sources]),
            table("longest functions", [(piece.lines, piece.where) for piece in functions(sources)]),
            table("most public methods", [(public_methods(piece), piece.where) for piece in classes]),
        ]
    )


def test_files_and_functions_and_classes_stay_readable(package: list[Source]) -> None:
    print(report(package))
    too_long = [f"{source.name}: {source.lines} lines" for source in package if source.lines > MAX_FILE_LINES]
    too_long += [
        f"{piece.where}: {piece.lines} lines" for piece in functions(package) if piece.lines > MAX_FUNCTION_LINES
    ]
    too_long += [
        f"{piece.where}: {public_methods(piece)} public methods"
        for source in package
        for piece in pieces(source)
        if isinstance(piece.node, ast.ClassDef) and public_methods(piece) > MAX_PUBLIC_METHODS
    ]
    assert not too_long, report(package)


def test_functions_take_few_positional_parameters(package: list[Source]) -> None:
    wide = [
        f"{piece.where}: {count}"
        for piece in functions(package)
        if isinstance(piece.node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (count := len(piece.node.args.args) + len(piece.node.args.posonlyargs)) > MAX_POSITIONAL
    ]
    assert wide == []


def test_nothing_is_marked_unfinished(everything: list[Source]) -> None:
    mark = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK")) + r")\b")
    marked = [
        f"{source.name}:{number}"
        for source in everything
        for number, line in enumerate(source.text.splitlines(), 1)
        if mark.search(line)
    ]
    assert marked == []


def test_file_names_say_what_is_inside(everything: list[Source]) -> None:
    empty_words = {"utils", "util", "helpers", "helper", "common", "misc", "stuff", "shared", "tools"}
    vague = [source.name for source in everything if Path(source.name).stem.lstrip("_") in empty_words]
    assert vague == []


def catches_everything(node: ast.AST) -> bool:
    """``except Exception`` (or broader) that keeps the error, or ``suppress`` of it."""

    def is_broad(kind: ast.expr | None) -> bool:
        if kind is None:
            return True
        kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
        return any(isinstance(item, ast.Name) and item.id in ("Exception", "BaseException") for item in kinds)

    if isinstance(node, ast.ExceptHandler):
        raises_again = isinstance(node.body[-1], ast.Raise)
        return is_broad(node.type) and not raises_again
    if isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return called == "suppress" and any(is_broad(argument) for argument in node.args)
    return False


def test_only_boundaries_catch_everything(package: list[Source]) -> None:
    found = {
        piece.where for piece in functions(package) if any(catches_everything(node) for node in own_nodes(piece.node))
    }
    assert sorted(found - set(CATCHES_EVERYTHING)) == [], (
        "catch what can be handled, or add the boundary with its reason"
    )
    assert sorted(set(CATCHES_EVERYTHING) - found) == [], "these entries are not needed any more"


def own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """What is in a function itself, not in the functions defined inside it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield child
            yield from own_nodes(child)


def test_the_environment_is_read_in_one_place(package: list[Source]) -> None:
    found = {
        source.name
        for source in package
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute)
        and node.attr in ("environ", "environb", "getenv")
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    }
    assert sorted(found - set(READS_ENVIRONMENT)) == [], "a new setting belongs into Settings"
    assert sorted(set(READS_ENVIRONMENT) - found) == [], "these entries are not needed any more"


IMPORT_ALL = """
import importlib, pkgutil, sys
import xinfer
from xinfer import plugins
for module in pkgutil.walk_packages(xinfer.__path__, "xinfer."):
    if not module.name.startswith("xinfer.engines.") and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert plugins.engines(), "no engine found"
print(*(name for name in sys.argv[1:] if name in sys.modules))
"""


def test_nothing_but_a_replica_loads_an_engine_library() -> None:
    """Every module outside the engines, and the face of every engine, imports without torch and its like."""
    command = [sys.executable, "-W", "error", "-c", IMPORT_ALL, *ENGINE_LIBRARIES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
