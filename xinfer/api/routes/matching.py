"""Matching: which engines can run a model on these workers, in which formats, sizes and quantizations."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from xinfer.api.control import LOOKING_S
from xinfer.api.state import state_of
from xinfer.errors import InvalidRequest
from xinfer.ops import KINDS_OF_WORD
from xinfer.protocol import LaunchRequest

router = APIRouter(prefix="/v1/engines", tags=["models"])


@router.get("/{name:path}", summary="Which engines can run a model here")
async def match(
    request: Request,
    name: str,
    *,
    size: Annotated[str | None, Query(description="Only this size: 7, 0_5, 0.6b, 30b-a3b")] = None,
    model_format: Annotated[str | None, Query(alias="format", description="Only this format")] = None,
    quantization: Annotated[str | None, Query(description="Only this quantization")] = None,
    model_engine: Annotated[str | None, Query(description="Only this engine")] = None,
    model_path: Annotated[str | None, Query(description="A folder or GGUF file on the workers")] = None,
    n_gpu: Annotated[str, Query(description='Devices per replica; "auto": one; 0: the CPU')] = "auto",
    worker_ip: Annotated[str | None, Query(description="Only on this worker")] = None,
    enable_virtual_env: bool | None = None,
    detailed: Annotated[
        bool, Query(description="Every combination with its memory, or what stands against it")
    ] = False,
) -> dict[str, Any]:
    """Of a model (``/v1/engines/MODEL`` or ``/v1/engines/TYPE/MODEL``): by engine, what it can run, or why nothing.

    With ``detailed``: every combination of engine, format, quantization and size, the best first. The hub
    is asked where an id is not in the catalog; nothing else needs the network.
    """
    model_type, _, rest = name.partition("/")
    if not rest or model_type.lower() not in KINDS_OF_WORD:
        model_type, rest = "", name
    if not rest.strip():
        raise InvalidRequest("which model? /v1/engines/MODEL", param="model_name")
    asked = LaunchRequest(
        model_name=rest,
        model_type=model_type or None,
        model_size_in_billions=size,
        model_format=model_format,
        quantization=quantization,
        model_engine=model_engine,
        model_path=model_path,
        n_gpu=n_gpu,
        worker_ip=worker_ip,
        enable_virtual_env=enable_virtual_env,
    )
    supervisor = state_of(request).supervisor
    found: dict[str, Any] = await supervisor.call("match", asked, not detailed, timeout_s=LOOKING_S)
    return found
