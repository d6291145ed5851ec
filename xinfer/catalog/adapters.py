"""LoRA adapters from what lies on disk: a folder as the peft library writes it, or a GGUF file."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from xinfer.catalog.gguf import GgufFile, read_gguf
from xinfer.catalog.sources import resolve_source
from xinfer.catalog.weights import safetensors_in, tensor_shapes
from xinfer.errors import InvalidRequest
from xinfer.spec import Adapter, Format, ModelSpec

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PARAM = "adapters"
_FILE_A, _FILE_B = ".lora_a", ".lora_b"
"""In a GGUF file, behind the name of the tensor that they change."""

Shapes = Mapping[str, tuple[int, ...]]


class _Config(msgspec.Struct, frozen=True):
    """What we need of an ``adapter_config.json``."""

    peft_type: str = "LORA"
    r: int = 0
    rank_pattern: dict[str, int] | None = None
    base_model_name_or_path: str | None = None


def read_adapter(adapter: Adapter, spec: ModelSpec) -> Adapter:
    """The adapter with what its files say, checked against the model that it is for.

    Raises:
        InvalidRequest: it is no LoRA adapter, or one of another model; says which file or tensor shows that.
    """
    path = Path(adapter.path).expanduser().absolute()
    if path.suffix.lower() == ".gguf":
        return _read_file(path, adapter.name, spec)
    return _read_folder(path, adapter.name, spec)


def _read_folder(folder: Path, name: str, spec: ModelSpec) -> Adapter:
    config = _config(folder, name)
    if config.peft_type.upper() != "LORA" or config.r < 1:
        raise InvalidRequest(
            f"adapter {name!r}: {folder / CONFIG} describes no LoRA adapter (peft_type {config.peft_type!r}, "
            f"r {config.r})",
            param=PARAM,
        )
    shapes = _shapes(folder, name)
    base = config.base_model_name_or_path or ""
    obstacle = mismatch(shapes, _shapes_of_model(spec))
    if obstacle:
        made_for = f", it was made for {base}" if base else ""
        raise InvalidRequest(f"adapter {name!r} does not belong to {spec.name!r}{made_for}: {obstacle}", param=PARAM)
    rank = max([config.r, *(config.rank_pattern or {}).values()])
    return Adapter(name=name, path=str(folder), rank=rank, base=base)


def _read_file(file: Path, name: str, spec: ModelSpec) -> Adapter:
    if spec.format is not Format.GGUF:
        raise InvalidRequest(
            f"adapter {name!r} is a GGUF file, and {spec.name!r} is in {spec.format}; give the folder that peft wrote",
            param=PARAM,
        )
    try:
        found = read_gguf(file)
    except InvalidRequest as error:
        raise InvalidRequest(f"adapter {name!r}: {error.message}", param=PARAM) from None
    if found.text("general.type") != "adapter" or found.text("adapter.type") != "lora":
        raise InvalidRequest(f"adapter {name!r}: {file} is no LoRA adapter", param=PARAM)
    base = found.text("general.base_model.0.name")
    obstacle = _mismatch_of_files(found, _gguf_of_model(spec))
    if obstacle:
        made_for = f", it was made for {base}" if base else ""
        raise InvalidRequest(f"adapter {name!r} does not belong to {spec.name!r}{made_for}: {obstacle}", param=PARAM)
    ranks = (tensor.shape[0] for tensor in found.tensors if tensor.name.endswith(_FILE_B))
    return Adapter(name=name, path=str(file), rank=max(ranks, default=0), base=base)


def _gguf_of_model(spec: ModelSpec) -> GgufFile | None:
    """None where this machine cannot read it: then its engine says whether they fit."""
    try:
        return read_gguf(resolve_source(spec.source))
    except InvalidRequest:
        return None


def _mismatch_of_files(adapter: GgufFile, model: GgufFile | None) -> str:
    """Why the adapter is not for the model; empty: nothing says so. Its shapes begin with what goes in."""
    if model is None:
        return ""
    if adapter.architecture != model.architecture:
        return f"its architecture is {adapter.architecture} and the model's {model.architecture}"
    weights = {tensor.name: tensor.shape for tensor in model.tensors}
    shapes = {tensor.name: tensor.shape for tensor in adapter.tensors}
    for name, shape in shapes.items():
        module = name.removesuffix(_FILE_A)
        if module in {name, "token_embd.weight"}:  # of embeddings, the two are the other way round
            continue
        ups = shapes.get(f"{module}{_FILE_B}", ())
        if module not in weights:
            return f"the model has no tensor {module}"
        if weights[module] != (shape[0], ups[-1] if ups else 0):
            inner, outer = (*weights[module], 0, 0)[:2]
            mine = f"{ups[-1] if ups else 0} x {shape[0]}"
            return f"{module} is {mine} in the adapter and {outer} x {inner} in the model"
    return ""


def _config(folder: Path, name: str) -> _Config:
    file = folder / CONFIG
    if not file.is_file():
        raise InvalidRequest(
            f"adapter {name!r}: {folder} has no {CONFIG}; an adapter is a folder as peft's save_pretrained writes it",
            param=PARAM,
        )
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Config)
    except (msgspec.MsgspecError, OSError) as error:
        raise InvalidRequest(f"adapter {name!r}: {file} cannot be read: {error}", param=PARAM) from error


def _shapes(folder: Path, name: str) -> Shapes:
    file = folder / WEIGHTS
    if not file.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        why = " (pickled weights are not loaded because they can run code; convert them)" if pickled else ""
        raise InvalidRequest(f"adapter {name!r}: {folder} has no {WEIGHTS}{why}", param=PARAM)
    try:
        return tensor_shapes([file])
    except InvalidRequest as error:
        raise InvalidRequest(f"adapter {name!r}: {error.message}", param=PARAM) from None


def _shapes_of_model(spec: ModelSpec) -> Shapes:
    """None where it has no such files, or this machine cannot read them: then its engine says whether they fit."""
    if spec.format is not Format.SAFETENSORS:
        return {}
    try:
        return tensor_shapes(safetensors_in(resolve_source(spec.source)))
    except InvalidRequest:
        return {}


def mismatch(adapter: Shapes, model: Shapes) -> str:
    """Why these tensors of an adapter are not for a model with those; empty: nothing says so.

    Modules are compared from their layer on, because what comes before differs between classes of one model. Of
    quantised weights, whose shapes are packed, nothing is compared.
    """
    if not model:
        return ""
    weights = {_module(name): shape for name, shape in model.items() if name.endswith(".weight")}
    quantised = any(name.endswith((".qweight", ".scales", ".weight_packed", ".weight_scale")) for name in model)
    targets = list(_targets(adapter))
    if not targets:
        return f"{WEIGHTS} has no tensors of LoRA"
    known = [(module, inner, outer) for module, inner, outer in targets if module in weights]
    if not known and not quantised:
        return f"the model has no module {targets[0][0]}"
    for module, inner, outer in known if not quantised else ():
        if weights[module] != (outer, inner):
            rows, columns = (*weights[module], 0, 0)[:2]
            return f"{module} is {outer} x {inner} in the adapter and {rows} x {columns} in the model"
    return ""


def _targets(adapter: Shapes) -> Iterable[tuple[str, int, int]]:
    """The modules that it changes, with how many values go in and come out."""
    for name, shape in adapter.items():
        head, found, tail = name.partition(".lora_A.")
        pair = adapter.get(f"{head}.lora_B.{tail}")
        if found and len(shape) == 2 and pair is not None and len(pair) == 2:
            yield _module(f"{head}.weight"), shape[1], pair[0]


def _module(tensor: str) -> str:
    """Its name from the layer on; of modules outside of the layers, the last part."""
    name = tensor.removesuffix(".weight")
    _, found, rest = name.partition("layers.")
    return found + rest if found else name.rpartition(".")[2]
