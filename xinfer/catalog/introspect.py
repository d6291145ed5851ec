"""A ModelSpec from what lies on disk: a folder in the Hugging Face layout, or a GGUF file."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path

import msgspec

from xinfer.catalog import vectors
from xinfer.catalog.folder import ADAPTER, PIPELINE, Folder, refused_adapter, refused_folder
from xinfer.catalog.folder_weights import weights_of
from xinfer.catalog.gguf import PART, GgufFile, read_gguf
from xinfer.catalog.kinds import abilities, hears, kind_of, reasoning_parser, tool_parser
from xinfer.catalog.pipelines import read_pipeline
from xinfer.catalog.shape import shape_of_config, shape_of_gguf
from xinfer.catalog.sources import resolve_source
from xinfer.catalog.weights import safetensors_in, size_mib
from xinfer.errors import InvalidRequest
from xinfer.generation.context import context_length
from xinfer.ops import Kind
from xinfer.spec import Format, ModelShape, ModelSpec

VECTORS = (Kind.EMBEDDING, Kind.RERANK)
"""Kinds of which the longest input is also a matter of what is around the weights."""
MOST_FILES = 5
"""That a refusal lists."""
PROJECTOR = "*mmproj*.gguf"
"""How files are called by custom that read images for the model beside them."""
GGUF_RANK = 4
"""The number of the pooling of rerank models in a GGUF file."""
GGUF_POOLINGS = {1: "mean", 2: "cls", 3: "lasttoken"}
"""Those of embedding models, by their numbers."""
GGUF_FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4",
}
"""The quantizations by their number in ``general.file_type``."""


def introspect(source: str, name: str = "", kinds: Collection[Kind] = ()) -> ModelSpec:
    """What a local folder or GGUF file holds.

    Args:
        source: its path, or a symbolic source.
        name: of the model; its own by default.
        kinds: what the launch says that it is for. Files that say something else, or nothing, are not believed: it is
            the first of these then.

    Raises:
        InvalidRequest: it cannot be served as it is; the message says why and what would help.
    """
    path = resolve_source(source)
    if path.is_file():
        return _gguf(_not_weights_alone(path), source, name, kinds)
    if (path / PIPELINE).is_file():
        return read_pipeline(path, source, name)
    folder = Folder(path)
    weights = safetensors_in(path)
    if (path / ADAPTER).is_file() and all(file.name.startswith("adapter_") for file in weights):
        raise refused_adapter(folder)
    ggufs = _whole_models(path) if not weights or not folder.config else []
    if ggufs:
        return _gguf(_only_one(path, ggufs), f"{source.rstrip('/')}/{ggufs[0].name}", name or path.name, kinds)
    if not folder.config:
        raise refused_folder(path)
    return _folder(folder, source, name, kinds)


def _folder(folder: Folder, source: str, name: str, kinds: Collection[Kind]) -> ModelSpec:
    kind = _told_kind(folder, source, kinds)
    config = folder.config
    weights, how, tensors = weights_of(folder)
    embeds = kind is Kind.EMBEDDING
    return ModelSpec(
        name=name or folder.path.name,
        kind=kind,
        source=source,
        format=how.format,
        family=str(config.get("model_type", "")),
        quantization=how.quantization,
        size_in_billions=_billions(tensors.parameters),
        abilities=abilities(kind, folder.template, hearing=hears(folder)),
        context_length=vectors.longest_input(folder) if kind in VECTORS else context_length(folder.text),
        dimensions=vectors.dimensions(folder) if embeds else None,
        matryoshka_dims=vectors.matryoshka_dims(folder) if embeds else (),
        pooling=vectors.pooling(folder) if embeds else "",
        normalized=vectors.normalized(folder) if embeds else None,
        has_chat_template=bool(folder.template),
        tool_parser=tool_parser(kind, folder.template),
        reasoning_parser=reasoning_parser(kind, folder.template),
        remote_code=folder.has_remote_code,
        weights_mib=size_mib(weights),
        shape=shape_of_config(config, tensors),
    )


def _told_kind(folder: Folder, source: str, kinds: Collection[Kind]) -> Kind:
    """What the launch says counts more than what the files do."""
    try:
        found = kind_of(folder, source)
    except InvalidRequest:
        if not kinds:
            raise
        return next(iter(kinds))
    return found if not kinds or found in kinds else next(iter(kinds))


def shape_of(spec: ModelSpec) -> ModelShape | None:
    """The shape of a model of the catalog by its files; None: it has none, or this machine cannot read them.

    A worker may have them all the same, and if they are damaged, its engine says so.
    """
    if spec.format is Format.NONE:
        return None
    try:
        path = resolve_source(spec.source)
        if spec.format is Format.GGUF:
            return _shape_with(shape_of_gguf(read_gguf(path)), projector_beside(path))
        folder = Folder(path)
        return shape_of_config(folder.config, weights_of(folder).tensors)
    except InvalidRequest:
        return None


def _gguf(file: Path, source: str, name: str, kinds: Collection[Kind]) -> ModelSpec:
    found = read_gguf(file)
    kind = _gguf_kind(file, found)
    projector = projector_beside(file) if kind is Kind.LLM else None
    if projector is not None:
        kind = Kind.VISION_LANGUAGE
    if kinds and kind not in kinds:
        kind = next(iter(kinds))
    template = "".join(found.text(f"tokenizer.chat_template{name}") for name in ("", ".tool_use"))
    file_type = found.metadata.get("general.file_type")
    pooling = found.own("pooling_type")
    embeds = kind is Kind.EMBEDDING
    shape = _shape_with(shape_of_gguf(found), projector)
    return ModelSpec(
        name=name or file.stem,
        kind=kind,
        source=source.removesuffix(file.name) + found.files[0].name,  # any part of a model stands for all
        format=Format.GGUF,
        family=found.architecture,
        quantization=GGUF_FILE_TYPES.get(file_type, "none") if isinstance(file_type, int) else "none",
        size_in_billions=_billions(shape.parameters),
        abilities=abilities(kind, template),
        context_length=_gguf_context(found),
        dimensions=(found.number("embedding_length_out") or shape.hidden or None) if embeds else None,
        pooling=GGUF_POOLINGS.get(pooling, "") if embeds and isinstance(pooling, int) else "",
        has_chat_template=bool(template),
        tool_parser=tool_parser(kind, template),
        reasoning_parser=reasoning_parser(kind, template),
        weights_mib=size_mib([*found.files, *([projector] if projector else ())]),
        shape=shape,
    )


def projector_beside(model: Path) -> Path | None:
    """The GGUF file that reads images for a model, by its name; None: there is none."""
    found = (file for file in sorted(model.parent.glob(PROJECTOR)) if file != model)
    return next(found, None)


def _shape_with(shape: ModelShape, projector: Path | None) -> ModelShape:
    """The shape of a model with the weights of what reads images for it."""
    if projector is None:
        return shape
    sizes = Counter(shape.weight_bytes)
    for tensor in read_gguf(projector).tensors:
        sizes[tensor.type] += tensor.size
    return msgspec.structs.replace(shape, weight_bytes=dict(sizes))


def _gguf_kind(file: Path, found: GgufFile) -> Kind:
    """What the model is for.

    Raises:
        InvalidRequest: the file is a part of a model only.
    """
    role = found.text("general.type") or "model"
    if role != "model" or not found.architecture:
        what = f"of the type {role!r}" if found.architecture else "without an architecture"
        raise InvalidRequest(
            f"{file} is a GGUF file {what}, which is no model by itself; launch the model that it belongs to",
            param="model_path",
        )
    pooling = found.own("pooling_type")
    if pooling == GGUF_RANK:
        return Kind.RERANK
    return Kind.EMBEDDING if pooling in GGUF_POOLINGS or found.own("attention.causal") is False else Kind.LLM


def _gguf_context(found: GgufFile) -> int | None:
    """Tokens, with the scaling of positions where the file was made with one."""
    before, factor = found.number("rope.scaling.original_context_length"), found.own("rope.scaling.factor")
    scaled = int(before * factor) if isinstance(factor, int | float) else 0
    return max(found.number("context_length"), scaled) or None


def _billions(parameters: int) -> float:
    return float(f"{parameters / 1e9:.3g}")


def _not_weights_alone(file: Path) -> Path:
    if file.suffix == ".safetensors":
        raise InvalidRequest(
            f"{file} is one file of a model; launch the folder that it is in, with its config.json", param="model_path"
        )
    return file


def _whole_models(path: Path) -> list[Path]:
    """The GGUF files of a folder; of a model in several parts only the first; without what only belongs to a model."""
    named = ((file, PART.fullmatch(file.name)) for file in sorted(path.glob("*.gguf")))
    first = [file for file, part in named if part is None or int(part["number"]) == 1]
    return [file for file in first if (read_gguf(file).text("general.type") or "model") == "model"] or first


def _only_one(path: Path, files: list[Path]) -> Path:
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:MOST_FILES]) + (", ..." if len(files) > MOST_FILES else "")
        raise InvalidRequest(
            f"{path} holds {len(files)} GGUF files, name one of them ({names})",
            param="model_path",
        )
    return files[0]
