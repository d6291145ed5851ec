"""Options of ``xinfer launch`` about devices and slices of them, in the words of HAMi."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

PANEL = "How much of which devices"


def _option(name: str, help_text: str, **more: Any) -> Any:
    return typer.Option(name, help=help_text, rich_help_panel=PANEL, **more)


Count = Annotated[str | None, _option("--n-gpu", "Devices per replica: a number, auto, or none (CPU).")]
Gpu = Annotated[int | None, _option("--gpu", "The same, as a number.")]
Indices = Annotated[str | None, _option("--gpu-idx", "Only on these devices: 0 or 0,1.")]
Memory = Annotated[int | None, _option("--gpumem", "Memory on each device, MiB. Default: an estimate.")]
MemoryPercent = Annotated[int | None, _option("--gpumem-percentage", "The same in percent of the device.")]
Cores = Annotated[int | None, _option("--gpucores", "Percent of each device's cores; 100: the device for itself.")]
Policy = Annotated[str | None, _option("--policy", "binpack, spread or topology: how workers and devices are chosen.")]
Types = Annotated[str | None, _option("--gputype", "Only devices whose name has one of these words: A100,H100.")]
TypesDenied = Annotated[str | None, _option("--nouse-gputype", "No device whose name has one of these words.")]
Uuids = Annotated[str | None, _option("--gpuuuid", "Only devices with one of these UUIDs.")]
UuidsDenied = Annotated[str | None, _option("--nouse-gpuuuid", "No device with one of these UUIDs.")]


def device_words(
    *,
    n_gpu: Count = None,
    gpu: Gpu = None,
    gpu_idx: Indices = None,
    gpumem: Memory = None,
    gpumem_percentage: MemoryPercent = None,
    gpucores: Cores = None,
    policy: Policy = None,
    gputype: Types = None,
    nouse_gputype: TypesDenied = None,
    gpuuuid: Uuids = None,
    nouse_gpuuuid: UuidsDenied = None,
) -> dict[str, Any]:
    """The options that were given, as words of the launch body. On a machine without GPUs they are about its CPU."""
    given = {
        "gpu": gpu,
        "gpu_idx": _indices(gpu_idx),
        "gpumem": gpumem,
        "gpumem_percentage": gpumem_percentage,
        "gpucores": gpucores,
        "policy": policy,
        "gputype": gputype,
        "nouse_gputype": nouse_gputype,
        "gpuuuid": gpuuuid,
        "nouse_gpuuuid": nouse_gpuuuid,
    }
    return _n_gpu(n_gpu) | {word: value for word, value in given.items() if value is not None}


def with_options_of(bundle: Callable[..., Any], *, into: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of ``bundle`` beside its own; what that makes of them is its keyword ``into``."""
    options = inspect.signature(bundle).parameters

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [value for name, value in inspect.signature(command).parameters.items() if name != into]
        parameters = [*own, *options.values()]

        @functools.wraps(command)
        def whole(**given: Any) -> None:
            command(**{into: bundle(**{name: given.pop(name) for name in options})}, **given)

        # What typer reads the options of a command from.
        whole.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # inspect honours it
        whole.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return whole

    return decorate


def _n_gpu(text: str | None) -> dict[str, int | None]:
    """As the launch body has it; there null means the CPU, which differs from not asking."""
    if text is None or text == "auto":
        return {}
    if text.lower() in ("none", "cpu"):
        return {"n_gpu": None}
    if not text.isdigit():
        raise typer.BadParameter(f"{text!r} is none of: a number, auto, none", param_hint="--n-gpu")
    return {"n_gpu": int(text)}


def _indices(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(index) for index in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of numbers such as 0,1", param_hint="--gpu-idx") from None
