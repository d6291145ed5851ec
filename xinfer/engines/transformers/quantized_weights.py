"""What the library is told when it reads quantized weights, or quantizes plain ones. Imports it."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
import transformers

from xinfer.engines.transformers.quantization import BITSANDBYTES, METHODS, Quantize, require_installed, unreadable
from xinfer.errors import LoadFailed

CHATTY = "bitsandbytes.autograd._functions"
"""Says for every projection of every step that numbers become float16 there."""


def reading_arguments(
    config: Mapping[str, Any], quantize: Quantize | None, dtype: str, device: torch.device
) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` besides the usual ones; none: the weights are plain, and plain they are to be.

    Args:
        config: the config.json.
        quantize: what plain weights are to be quantized to.
        dtype: what the model computes in; "auto": as its config.json says.
        device: where they are to be.

    Raises:
        LoadFailed: what it takes is not installed, the weights are quantized already, or in a way that nobody reads.
    """
    described = config.get("quantization_config") or {}
    method = str(described.get("quant_method", ""))
    if not described:
        stored = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
        return _quantizing(quantize, stored if dtype == "auto" else dtype, device) if quantize else {}
    if quantize:
        raise LoadFailed(f"the weights are quantized already ({method}); launch it without 'quantize'")
    if reason := unreadable(method):
        raise LoadFailed(reason)
    require_installed(METHODS[method].packages, f"its weights are quantized ({method})")
    if METHODS[method].unpacks == "always" or (METHODS[method].unpacks == "cpu" and device.type == "cpu"):
        return _unpacking(method)
    return {"device_map": {"": device}}


def _quantizing(quantize: Quantize, dtype: str, device: torch.device) -> dict[str, Any]:
    require_installed(METHODS[BITSANDBYTES].packages, f"'quantize' is {quantize}")
    logging.getLogger(CHATTY).setLevel(logging.ERROR)
    config = (
        transformers.BitsAndBytesConfig(load_in_8bit=True)
        if quantize == "int8"
        else transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type=quantize, bnb_4bit_compute_dtype=dtype
        )
    )
    return {"device_map": {"": device}, "quantization_config": config}


def _unpacking(method: str) -> dict[str, Any]:
    """Say so rather than let the library find out by the hardware: the estimate has counted on it.

    Compressed tensors need no word: their first step, with which the model is checked, makes plain weights of them.
    """
    config = {"fp8": transformers.FineGrainedFP8Config, "mxfp4": transformers.Mxfp4Config}.get(method)
    return {"quantization_config": config(dequantize=True)} if config else {}
