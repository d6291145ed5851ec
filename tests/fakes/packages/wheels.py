"""Folders of wheels for tests of engine environments, made on the spot: no test needs an index.

A wheel is a zip file with a module or two and some metadata. Packages that are installed here become wheels again, so
that a replica can run in an environment that was built without a network.
"""

import importlib.metadata
import io
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def write_wheel(
    folder: Path,
    name: str,
    version: str,
    files: Mapping[str, str | bytes],
    *,
    requires: Iterable[str] = (),
    entry_points: str = "",
) -> Path:
    """A pure Python wheel with these files."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    needs = "".join(f"Requires-Dist: {one}\n" for one in requires)
    metadata = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        **({"entry_points.txt": entry_points} if entry_points else {}),
    }
    inside = {**files, **{f"{stem}.dist-info/{file}": text for file, text in metadata.items()}}
    with zipfile.ZipFile(path, "w") as wheel:
        for file, content in inside.items():
            wheel.writestr(file, content)
        record = "".join(f"{file},,\n" for file in [*inside, f"{stem}.dist-info/RECORD"])
        wheel.writestr(f"{stem}.dist-info/RECORD", record)
    return path


SOURCE = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "{name}"
version = "{version}"
"""

BACKEND = """\
import json
import pathlib
import zipfile


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name = "{name}-{version}-py3-none-any.whl"
    info = "{name}-{version}.dist-info"
    with zipfile.ZipFile(pathlib.Path(wheel_directory, name), "w") as wheel:
        wheel.writestr("{name}.py", f"SETTINGS = {{json.dumps(config_settings)}}\\n")
        wheel.writestr(info + "/METADATA", "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        wheel.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "/RECORD", f"{name}.py,,\\n{{info}}/METADATA,,\\n{{info}}/WHEEL,,\\n{{info}}/RECORD,,\\n")
    return name
"""


def write_source(folder: Path, name: str, version: str) -> Path:
    """A package that is built where it is installed. Its module says with which settings, as ``SETTINGS``."""
    path = folder / f"{name}-{version}.tar.gz"
    files = {
        "pyproject.toml": SOURCE.format(name=name, version=version),
        "backend.py": BACKEND.format(name=name, version=version),
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
    }
    with tarfile.open(path, "w:gz") as archive:
        for file, text in files.items():
            entry = tarfile.TarInfo(f"{name}-{version}/{file}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


def unpack_wheel(wheel: Path, folder: Path) -> Path:
    """What an installer would do; the folder can be put on a path."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def repack(folder: Path, requirements: Iterable[str], *, without: Iterable[str] = ()) -> None:
    """Make wheels of installed packages and of everything that they need, except ``without``."""
    folder.mkdir(parents=True, exist_ok=True)
    left = _holding(requirements, ())
    unwanted = {canonicalize_name(name) for name in without}
    done: set[tuple[str, frozenset[str]]] = set()
    while left:
        wanted = left.pop()
        name, extras = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if name in unwanted or (name, extras) in done:
            continue
        distribution = importlib.metadata.distribution(name)
        if not any(name == other for other, _ in done):
            _repack(folder, distribution)
        done.add((name, extras))
        left += _holding(distribution.requires or (), extras)


def _holding(requirements: Iterable[str], extras: Iterable[str]) -> list[Requirement]:
    """Those requirements that hold here, and with these extras."""
    parsed = [Requirement(text) for text in requirements]
    return [
        one
        for one in parsed
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]


def _repack(folder: Path, distribution: importlib.metadata.Distribution) -> None:
    root = Path(sysconfig.get_path("purelib"))
    files = [
        file for file in distribution.files or () if not file.as_posix().startswith("..") and file.suffix != ".pyc"
    ]
    lines = (distribution.read_text("WHEEL") or "").splitlines()
    tags = [line.removeprefix("Tag: ").split("-") for line in lines if line.startswith("Tag: ")]
    tag = "-".join(".".join(dict.fromkeys(part)) for part in zip(*tags, strict=True))
    name = distribution.metadata["Name"].replace("-", "_").replace(".", "_")
    path = folder / f"{name}-{distribution.version}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as wheel:
        for file in files:
            if (root / file).is_file() and file.name not in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
                wheel.write(root / file, file.as_posix())
        record = next(file for file in files if file.name == "RECORD")
        wheel.writestr(record.as_posix(), "".join(f"{file.as_posix()},,\n" for file in files))
