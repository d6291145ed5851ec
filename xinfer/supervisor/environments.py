"""From the words of a launch to the Python that its replicas run on."""

from pathlib import PurePosixPath
from typing import Literal

from xinfer.errors import InvalidRequest
from xinfer.packages import spelled
from xinfer.protocol import LaunchRequest
from xinfer.spec import EnvironmentRequest

Mode = Literal["auto", "none", "own"]
MODES: dict[str, Mode] = {"auto": "auto", "none": "none", "own": "own"}


def environment_request(request: LaunchRequest) -> EnvironmentRequest:
    """What a launch says about the Python of its replicas.

    An environment that is not there yet is built only where the launch asks for it or names its engine: nobody waits
    for gigabytes because an engine was chosen for them.

    Raises:
        InvalidRequest: it cannot be meant, or its words say different things; names the field.
    """
    mode, python = _mode(request), _python(request)
    packages = tuple(sorted({spelled(package) for package in request.virtual_env_packages}))
    if packages and python:
        raise InvalidRequest(
            "'virtual_env_packages' are for environments that xinfer builds, and the launch names a Python of its own; "
            "install them there",
            param="virtual_env_packages",
        )
    if packages and mode == "none":
        raise InvalidRequest(
            "'virtual_env_packages' need an environment of their own, and the launch asks for none",
            param="virtual_env_packages",
        )
    build = bool(request.model_engine or packages or mode == "own")
    return EnvironmentRequest(mode=mode, python=python, packages=packages, build=build)


def _mode(request: LaunchRequest) -> Mode:
    said = request.environment
    by_name = MODES.get(said) if said else None
    by_switch: Mode | None = None
    if request.enable_virtual_env is not None:
        by_switch = "own" if request.enable_virtual_env else "none"
    if by_name and by_switch and by_name != by_switch:
        raise InvalidRequest(
            f"'environment' is {said!r} and 'enable_virtual_env' says {by_switch!r}; give one of them",
            param="enable_virtual_env",
        )
    return by_name or by_switch or "auto"


def _python(request: LaunchRequest) -> str:
    """The interpreter that a launch names, itself or by the folder of its virtual environment."""
    folder = request.environment if request.environment and request.environment not in MODES else None
    if folder is not None and not _is_path(folder):
        raise InvalidRequest(
            f"'environment' is auto, none, own, or the absolute path of a virtual environment on the workers, "
            f"not {folder!r}",
            param="environment",
        )
    python = request.python or ""
    if python and not _is_path(python):
        raise InvalidRequest(
            f"'python' is the absolute path of an interpreter on the workers, not {python!r}", param="python"
        )
    if python and (request.environment or request.enable_virtual_env is not None):
        raise InvalidRequest("'python' goes without 'environment' and 'enable_virtual_env'", param="python")
    return python or (str(PurePosixPath(folder) / "bin" / "python") if folder else "")


def _is_path(text: str) -> bool:
    """Whether it is an absolute path, of characters that paths can have."""
    return PurePosixPath(text).is_absolute() and "\0" not in text
