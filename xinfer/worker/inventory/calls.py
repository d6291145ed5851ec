"""Calls into NVML: which errors there are, which mean that a card is gone, and which only that it does not say."""

import ctypes
import importlib
from collections.abc import Callable
from typing import Any

LIBRARY = "libnvidia-ml.so.1"


class NvmlAway(Exception):
    """NVML cannot be used here; the message says why, for people."""


class NvmlCalls:
    """The functions and constants of ``pynvml`` as ``api``, imported only where there is a driver for it.

    Raises:
        NvmlAway: no driver, or no such module.
    """

    def __init__(self) -> None:
        self.api = _library()
        # A driver too old for a call makes pynvml raise the second one, which is no NVMLError.
        self.errors: tuple[type[Exception], ...] = (self.api.NVMLError, self.api.NVMLLibraryMismatchError)
        self._lost = {self.api.NVML_ERROR_GPU_IS_LOST, self.api.NVML_ERROR_RESET_REQUIRED}

    def ask(self, default: Any, call: Callable[..., Any], *arguments: Any) -> Any:
        """The answer, or ``default`` where the card, the driver or our rights do not have it. A lost card raises."""
        try:
            return call(*arguments)
        except self.errors as error:
            if self.is_lost(error):
                raise
            return default

    def is_lost(self, error: BaseException) -> bool:
        """Whether an error means that the card is gone until NVML is initialised again."""
        return getattr(error, "value", None) in self._lost

    def bus(self, handle: Any) -> str:
        """The PCI bus id of a card, ``00000000:01:00.0``; empty: not known."""
        return bus_of(self.ask(None, self.api.nvmlDeviceGetPciInfo, handle))

    def start(self) -> None:
        """Initialise NVML.

        Raises:
            NvmlAway: it does not start.
        """
        try:
            self.api.nvmlInit()
        except self.errors as error:
            raise NvmlAway(self._why_no_start(error)) from error

    def _why_no_start(self, error: Exception) -> str:
        api = self.api
        reasons = {
            api.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is installed but not loaded",
            api.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the NVIDIA driver in the kernel is of another version than its "
            "libraries: load the new driver, or restart the machine",
            api.NVML_ERROR_NO_PERMISSION: "this user may not talk to the NVIDIA driver: see the rights of /dev/nvidia*",
            api.NVML_ERROR_FUNCTION_NOT_FOUND: f"{LIBRARY} is too old, or not NVIDIA's",
        }
        reason = reasons.get(getattr(error, "value", None), "NVML does not start")
        return f"{reason} ({error})"


def bus_of(info: Any) -> str:
    """The bus id in an ``nvmlPciInfo_t``, in small letters; None has none."""
    if info is None:
        return ""
    raw = info.busId
    return (raw.decode("ascii", "replace") if isinstance(raw, bytes) else str(raw)).lower()


def _library() -> Any:
    try:
        ctypes.CDLL(LIBRARY)
    except OSError as error:
        absent = f"{LIBRARY}: cannot open shared object file" in str(error)
        raise NvmlAway(
            f"no NVIDIA driver: there is no {LIBRARY}" if absent else f"{LIBRARY} cannot be loaded: {error}"
        ) from error
    try:
        return importlib.import_module("pynvml")
    except ImportError as error:
        raise NvmlAway(f"there is an NVIDIA driver, but nvidia-ml-py cannot be imported: {error}") from error
