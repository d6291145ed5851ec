"""The body of a launch, as users send it, and the LaunchRequest that it means."""

from typing import Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from xinfer.api.adapter_words import LoraModules, PeftModelConfig, adapters_of
from xinfer.errors import InvalidRequest
from xinfer.protocol import LaunchRequest

Words = str | list[str] | None
"""One word, several separated by commas, or a list of them."""
READ_APART = {"gpu_idx", "envs", "virtual_env_packages", "lora_modules", "peft_model_config"}
WORD_LISTS = ("gputype", "nouse_gputype", "gpuuuid", "nouse_gpuuuid")


class LaunchBody(BaseModel):
    """A launch. Every further keyword goes to the engine, which refuses the ones it does not know.

    The words about GPUs are those of HAMi. Where replicas run on the CPU, the CPU is the device that they slice.
    """

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model_name: str = Field(description="A name of the catalog, an id (OWNER/NAME), or a local folder", min_length=1)
    model_uid: str | None = Field(None, description="The name that clients use; default: model_name")
    model_type: str | None = Field(None, description="LLM, embedding or rerank; default: what the model is")
    model_engine: str | None = Field(None, description="Default: the best one that can run it")
    model_format: str | None = None
    model_size_in_billions: int | float | str | None = None
    quantization: str | None = None
    model_path: str | None = Field(None, description="A local folder to load instead of the catalog's source")
    replica: StrictInt = Field(1, ge=1, description="How many copies")
    n_gpu: int | str | None = Field("auto", description='Devices per replica; "auto": one; null or 0: the CPU')
    gpu: StrictInt | None = Field(None, description="The same as n_gpu, as a number")
    gpu_idx: int | list[int] | None = Field(None, description="Only devices with these numbers on their worker")
    gpumem: StrictInt | None = Field(None, description="MiB per device; goes before gpumem_percentage")
    gpumem_percentage: StrictInt | None = Field(None, description="Percent of each device's memory, 1 to 100")
    gpucores: StrictInt | None = Field(
        None, description="Percent of each device's cores; 0: no limit, 100: the devices for itself"
    )
    policy: str | None = Field(None, description="binpack, spread or topology: how worker and devices are chosen")
    gputype: Words = Field(None, description="Only devices with one of these words in their name")
    nouse_gputype: Words = Field(None, description="No device with one of these words in its name")
    gpuuuid: Words = Field(None, description="Only devices with one of these UUIDs")
    nouse_gpuuuid: Words = Field(None, description="No device with one of these UUIDs")
    n_worker: StrictInt = Field(
        1, ge=1, description="On how many workers each replica runs, with as many devices on each"
    )
    worker_ip: str | None = None
    memory_mib: int | None = Field(None, ge=1, description="The same as gpumem; default: an estimate")
    envs: dict[str, str] | None = None
    overrides: dict[str, Any] = Field(
        {}, description='What counts against the files of the model: {"context_length": 8192, "abilities": ["chat"]}'
    )
    fallback: str | None = Field(
        None,
        description="The model that answers where this one has no replica, full queues, or an endpoint that is away",
    )
    lora_modules: LoraModules | None = Field(
        None, description='LoRA adapters, each a model of its own: "NAME=PATH", or {"name": ..., "path": ...}'
    )
    peft_model_config: PeftModelConfig | None = Field(None, description="The same, in the words of Xinference")
    environment: str | None = Field(
        None,
        description="Which Python runs it. auto: the worker's where it has the engine, else an environment of the "
        "engine; none: the worker's; own: an environment; or the folder of a virtual environment on the workers",
    )
    python: str | None = Field(None, description="An interpreter on the workers that runs it")
    virtual_env_packages: list[str] | None = Field(
        None, description="Packages that its environment holds beyond what the engine needs; it is built first"
    )
    enable_virtual_env: bool | None = Field(None, description="true: environment own; false: environment none")


def launch_request(body: LaunchBody) -> LaunchRequest:
    """What the body asks for.

    Raises:
        InvalidRequest: it cannot be had; names the field.
    """
    known = body.model_dump(exclude=READ_APART, exclude_unset=True)
    extra = {name: known.pop(name) for name in list(known) if name not in LaunchBody.model_fields}
    # Xinference's client sends every keyword that it knows, null where its user gave none.
    given = {name: value for name, value in extra.items() if value is not None}
    indices = body.gpu_idx
    known["gpu_idx"] = () if indices is None else (indices,) if isinstance(indices, int) else tuple(indices)
    known["virtual_env_packages"] = body.virtual_env_packages or ()
    known["adapters"] = adapters_of(body.lora_modules, body.peft_model_config)
    known |= {name: _listed(known[name]) for name in WORD_LISTS if name in known}
    try:
        return msgspec.convert({**known, "envs": body.envs or {}, "options": given}, LaunchRequest)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"the launch body is not valid: {error}") from None


def _listed(words: Words) -> list[str]:
    return [] if words is None else [words] if isinstance(words, str) else words
