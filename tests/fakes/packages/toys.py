"""Engines of a third party: two need the same library in different versions, and say which one they found."""

from pathlib import Path

from fakes.packages.wheels import unpack_wheel, write_source, write_wheel

ENTRY_POINTS = """
[xinfer.engines]
toy_one = toy_engines:ToyOne
toy_two = toy_engines:ToyTwo
toy_compiled = toy_engines:ToyCompiled
"""

ENGINES = """
import importlib.metadata
import importlib.util
import sys

import msgspec

from xinfer.engines.base import JSON_HEAD, Available, Requirements
from xinfer.engines.echo.engine import EchoEngine


def toy(version, disk_mib):
    packages = ("toy-engines", f"toylib=={version}")
    return (Requirements(packages=packages, exclude=("scipy", "uv"), imports=("toylib",), disk_mib=disk_mib),)


class Toy(EchoEngine):
    install = "see the toys"
    library = ""

    @classmethod
    def available(cls):
        if importlib.util.find_spec("toylib") is None:
            return Available(False, "toylib is not installed")
        return Available(True, version=importlib.metadata.version("toylib"))

    async def load(self, spec, options, grant, progress):
        import toylib

        self.library = toylib.VERSION
        await super().load(spec, options, grant, progress)

    async def serve(self, call):
        yield JSON_HEAD
        yield f\'{{"library": "{self.library}", "prefix": "{sys.prefix}"}}\'.encode()


class ToyOne(Toy):
    name = "toy_one"
    title = "needs the old library"
    requirements = toy("1.0", disk_mib=200)


class ToyTwo(Toy):
    name = "toy_two"
    title = "needs the new one"
    requirements = toy("2.0", disk_mib=1)


class ToyCompiled(Toy):
    name = "toy_compiled"
    title = "needs the old library, and one that is compiled"
    requirements = (
        msgspec.structs.replace(
            toy("1.0", disk_mib=1)[0],
            packages=("toy-engines", "toylib==1.0", "toysource"),
            build_settings=("toysource:flags=-O2 --param=a=1",),
        ),
    )
"""


def write_library(folder: Path, version: str, *, body: str = "") -> Path:
    """``toylib``, as one wheel."""
    return write_wheel(folder, "toylib", version, {"toylib.py": f"VERSION = {version!r}\n{body}"})


def write_toys(wheels: Path, installed: Path) -> None:
    """The engines' package as a wheel and installed in a folder, and both versions of the library as wheels only."""
    unpack_wheel(
        write_wheel(wheels, "toy-engines", "1.0", {"toy_engines.py": ENGINES}, entry_points=ENTRY_POINTS), installed
    )
    for version in ("1.0", "2.0"):
        write_library(wheels, version)
    write_source(wheels, "toysource", "1.0")
