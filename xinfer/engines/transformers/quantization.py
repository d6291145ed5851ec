"""Quantized weights: which methods the engine reads, and what each needs. Pure.

Plain weights can be quantized while they are read (the option ``quantize``, with bitsandbytes); those of a folder that
was published quantized are read by whatever its method needs. Some methods only store weights small: the library makes
plain ones of them, so that they take as much memory as if they had never been quantized.
"""

import importlib.util
import shlex
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from xinfer.errors import InvalidRequest, LoadFailed
from xinfer.packages import distribution
from xinfer.spec import ModelSpec

Quantize = Literal["int8", "nf4", "fp4"]
"""To what plain weights can be quantized while they are read: 8 bits (LLM.int8), or 4 bits by their distribution."""
BITSANDBYTES = "bitsandbytes"


class Method(NamedTuple):
    """One way to quantize, by its name in a ``quantization_config``."""

    packages: tuple[str, ...]
    """What the library reads it with, as requirements; the library itself only where it has to be a later one."""
    unpacks: Literal["never", "cpu", "always"] = "never"
    """Where its weights become plain ones as they are read."""


GPTQMODEL = ("gptqmodel>=7.7", "torch>=2.14.1", "transformers>=5.20.2")
"""Its earlier releases are compiled against a torch that has to be there before them."""

METHODS: Mapping[str, Method] = {
    BITSANDBYTES: Method(("accelerate", "bitsandbytes")),
    "gptq": Method(("accelerate", *GPTQMODEL, "optimum")),
    "awq": Method(("accelerate", *GPTQMODEL)),
    "compressed-tensors": Method(("compressed-tensors",), unpacks="always"),
    "fp8": Method(("accelerate",), unpacks="cpu"),
    "mxfp4": Method((), unpacks="always"),
}
PACKAGES = tuple(sorted({package for method in METHODS.values() for package in method.packages}))
"""What any of them needs."""
CPU_UNPACKS = tuple(name for name, method in METHODS.items() if method.unpacks != "never")
UNPACKS = tuple(name for name, method in METHODS.items() if method.unpacks == "always")


def method_of(quantization: str) -> str:
    """The method by which weights are quantized ("gptq" of "gptq-int4"); empty: none that the engine reads."""
    return next((name for name in METHODS if quantization == name or quantization.startswith(f"{name}-")), "")


def unreadable(quantization: str) -> str:
    """Why the engine does not read weights that are quantized so; empty: it does."""
    if quantization == "none" or method_of(quantization):
        return ""
    return f"its weights are quantized ({quantization}), and this engine reads {', '.join(METHODS)}"


def packages_for(spec: ModelSpec, quantize: object) -> tuple[str, ...]:
    """What has to be installed beside the library to load a model.

    Args:
        spec: the model.
        quantize: what its plain weights are to be quantized to; nothing: they stay as they are.

    Raises:
        InvalidRequest: they are quantized already.
    """
    method = method_of(spec.quantization)
    if quantize and spec.quantization != "none":
        raise InvalidRequest(
            f"'quantize' is for plain weights, and those of {spec.name!r} are {spec.quantization} already; "
            "launch it without",
            param="quantize",
        )
    if quantize:
        method = BITSANDBYTES
    return METHODS[method].packages if method else ()


def installed(packages: Iterable[str] = PACKAGES) -> tuple[str, ...]:
    """The names of those that are here. Looks, and imports nothing."""
    names = dict.fromkeys(distribution(package) for package in packages)
    return tuple(name for name in names if importlib.util.find_spec(name.replace("-", "_")) is not None)


def require_installed(packages: Iterable[str], what: str) -> None:
    """Whether some packages are here, where a model is about to be loaded.

    Raises:
        LoadFailed: one is missing; says with which options of a launch they are installed.
    """
    packages = tuple(packages)
    here = installed(packages)
    missing = [package for package in packages if distribution(package) not in here]
    if missing:
        options = " ".join(f"--virtual-env-package {shlex.quote(package)}" for package in packages)
        raise LoadFailed(f"{what}, which needs {' and '.join(missing)} beside transformers; launch it with: {options}")
