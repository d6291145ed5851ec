"""Python code in a model's folder: it runs only if a launch asks for it, and whoever runs the server allows it."""

from collections.abc import Mapping
from typing import Any

from xinfer.errors import InvalidRequest
from xinfer.spec import ModelSpec

OPTION = "trust_remote_code"
SETTING = "XINFER_TRUST_REMOTE_CODE"
OFF = (False, None, 0, "", "0", "false", "no", "off")


def asks_for_it(options: Mapping[str, Any]) -> bool:
    """Whether the options of a launch let an engine run such code.

    Engines that are started with a command line take a beginning of a name for the name ("trust_remote").
    """
    return any(_means_it(name) and _lowered(value) not in OFF for name, value in options.items())


def require_allowed(options: Mapping[str, Any], *, allowed: bool) -> None:
    """Whether a launch may have what it asks for.

    Raises:
        InvalidRequest: it asks for such code, and the settings do not allow that.
    """
    if asks_for_it(options) and not allowed:
        raise InvalidRequest(
            f"{OPTION} runs Python code from the model's folder, which is not allowed here; whoever runs the server "
            f"can allow it: {SETTING}=1 for the supervisor and the workers",
            param=OPTION,
        )


def require_asked_for(spec: ModelSpec, options: Mapping[str, Any], engine: str) -> None:
    """Refuse a model whose architecture an engine knows from the model's own code only, unless a launch asks for that.

    Raises:
        InvalidRequest: it does not; says how to.
    """
    if not asks_for_it(options):
        raise InvalidRequest(
            f"{engine} does not know the architecture of {spec.name!r} ({spec.family or 'unnamed'}): it needs the "
            "Python code in the model's folder. Read that code, and if you trust it, launch the model with "
            f"--trust-remote-code true on a server that runs with {SETTING}=1",
            param=OPTION,
        )


def _means_it(name: str) -> bool:
    plain = name.strip("-").replace("-", "_").lower()
    return OPTION in plain or (len(plain) > 1 and OPTION.startswith(plain))


def _lowered(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value
