"""A ModelSpec from what lies on disk: a folder in the Hugging Face layout, or a GGUF file."""

from pathlib import Path
from typing import Any

import msgspec

from xinfer.catalog.gguf import PART, GgufFile, read_gguf
from xinfer.catalog.shape import shape_of_config, shape_of_gguf, text_config
from xinfer.catalog.sources import resolve_source
from xinfer.catalog.weights import read_tensors, safetensors_in, size_mib
from xinfer.errors import InvalidRequest
from xinfer.ops import Kind
from xinfer.spec import Format, ModelShape, ModelSpec

CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
GENERATIVE = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
REASONING_MARKS = ("enable_thinking", "reasoning_content", "<think>")
GGUF_POOLINGS = {1: Kind.EMBEDDING, 2: Kind.EMBEDDING, 3: Kind.EMBEDDING, 4: Kind.RERANK}
"""What a model is for, by the number of the pooling (mean, CLS, last token, rank) in a GGUF file."""
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


class _Module(msgspec.Struct):
    """An entry of a sentence-transformers ``modules.json``."""

    type: str
    path: str = ""


def introspect(source: str, name: str = "") -> ModelSpec:
    """What a local folder or GGUF file holds; ``name`` defaults to its own.

    Raises:
        InvalidRequest: it cannot be served as it is; the message says why and what would help.
    """
    path = resolve_source(source)
    if path.is_file():
        return _gguf(path, source, name)
    if not (path / "config.json").is_file():
        return _folder_without_config(path, source, name)
    config = _json(path / "config.json")
    modules = _modules(path)
    kind = _kind(path, config, modules)
    weights = _safetensors(path)
    tensors = read_tensors(weights)
    text = text_config(config)
    return ModelSpec(
        name=name or path.name,
        kind=kind,
        source=source,
        format=Format.SAFETENSORS,
        family=str(config.get("model_type", "")),
        quantization=_quantization(config),
        size_in_billions=_billions(tensors.parameters),
        abilities=_abilities(_chat_template(path), kind),
        context_length=_context_length(path, text, kind),
        dimensions=_dimensions(path, text, modules) if kind is Kind.EMBEDDING else None,
        matryoshka_dims=_integers(config.get("matryoshka_dimensions")) if kind is Kind.EMBEDDING else (),
        weights_mib=size_mib(weights),
        shape=shape_of_config(config, tensors),
    )


def shape_of(spec: ModelSpec) -> ModelShape | None:
    """The shape of a model of the catalog by its files; None: it has none, or this machine cannot read them.

    A worker may have them all the same, and if they are damaged, its engine says so.
    """
    if spec.format is Format.NONE:
        return None
    try:
        path = resolve_source(spec.source)
        if spec.format is Format.GGUF:
            return shape_of_gguf(read_gguf(path))
        return shape_of_config(_json(path / "config.json"), read_tensors(_safetensors(path)))
    except InvalidRequest:
        return None


def _gguf(file: Path, source: str, name: str) -> ModelSpec:
    found = read_gguf(file)
    kind = _gguf_kind(file, found)
    file_type = found.metadata.get("general.file_type")
    shape = shape_of_gguf(found)
    return ModelSpec(
        name=name or file.stem,
        kind=kind,
        source=source,
        format=Format.GGUF,
        family=found.architecture,
        quantization=GGUF_FILE_TYPES.get(file_type, "none") if isinstance(file_type, int) else "none",
        size_in_billions=_billions(shape.parameters),
        abilities=_abilities(found.text("tokenizer.chat_template"), kind),
        context_length=found.number("context_length") or None,
        dimensions=(found.number("embedding_length_out") or shape.hidden or None) if kind is Kind.EMBEDDING else None,
        weights_mib=size_mib(found.files),
        shape=shape,
    )


def _gguf_kind(file: Path, found: GgufFile) -> Kind:
    """What the model is for.

    Raises:
        InvalidRequest: the file is a part of a model only.
    """
    role = found.text("general.type") or "model"
    if role != "model" or not found.architecture:
        what = f"of the type {role!r}" if found.architecture else "without an architecture"
        raise InvalidRequest(f"{file} is a GGUF file {what}, which is no model by itself", param="model_path")
    pooling = found.own("pooling_type")
    if isinstance(pooling, int) and pooling in GGUF_POOLINGS:
        return GGUF_POOLINGS[pooling]
    return Kind.EMBEDDING if found.own("attention.causal") is False else Kind.LLM


def _billions(parameters: int) -> float:
    return float(f"{parameters / 1e9:.3g}")


def _folder_without_config(path: Path, source: str, name: str) -> ModelSpec:
    files = _whole_models(path)
    if len(files) == 1:
        return _gguf(files[0], f"{source.rstrip('/')}/{files[0].name}", name or path.name)
    found = f"{len(files)} GGUF files, name one of them" if files else "no config.json and no GGUF file"
    raise InvalidRequest(
        f"{path} holds {found}; a model folder has a config.json and *.safetensors files", param="model_path"
    )


def _whole_models(path: Path) -> list[Path]:
    """The GGUF files of a folder; of a model in several parts only the first."""
    named = ((file, PART.fullmatch(file.name)) for file in sorted(path.glob("*.gguf")))
    return [file for file, part in named if part is None or int(part["number"]) == 1]


def _kind(path: Path, config: dict[str, Any], modules: list[_Module]) -> Kind:
    architectures = [str(name) for name in config.get("architectures") or ()]
    if modules:
        return Kind.EMBEDDING
    if any(name.endswith("ForSequenceClassification") for name in architectures):
        labels = len(config.get("id2label") or {}) or int(config.get("num_labels") or 2)
        if labels == 1:
            return Kind.RERANK
        raise InvalidRequest(f"{path} is a classifier of {labels} classes; a rerank model has one", param="model_path")
    if any(name.endswith(GENERATIVE) for name in architectures):
        return Kind.LLM
    if any(name.endswith("Model") for name in architectures):
        return Kind.EMBEDDING
    raise InvalidRequest(
        f"{path} has the architectures {architectures or 'none'}, of which it cannot be told whether it is a language, "
        "embedding or rerank model",
        param="model_path",
    )


def _safetensors(path: Path) -> list[Path]:
    files = safetensors_in(path)
    if files:
        return files
    if any(path.glob("*.bin")):
        hint = (
            "only pickled weights (*.bin), which are not loaded because they can run code; convert them to safetensors"
        )
    else:
        hint = "no *.safetensors files"
    raise InvalidRequest(f"{path} has {hint}", param="model_path")


def _quantization(config: dict[str, Any]) -> str:
    found = config.get("quantization_config")
    if not isinstance(found, dict):
        return "none"
    method, bits = found.get("quant_method", "quantized"), found.get("bits")
    return f"{method}-int{bits}" if bits else str(method)


def _abilities(template: str, kind: Kind) -> tuple[str, ...]:
    if kind is Kind.EMBEDDING:
        return ("embed",)
    if kind is Kind.RERANK:
        return ("rerank",)
    if not template:
        return ("generate",)
    tools = ("tools",) if "tools" in template else ()
    reasoning = ("reasoning",) if any(mark in template for mark in REASONING_MARKS) else ()
    return ("generate", "chat", *tools, *reasoning)


def _chat_template(path: Path) -> str:
    """The template, or all of them where a tokenizer has several by name."""
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    found = _json(path / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):
        return "\n".join(str(entry.get("template", "")) for entry in found if isinstance(entry, dict))
    return str(found or "")


def _context_length(path: Path, config: dict[str, Any], kind: Kind) -> int | None:
    """Tokens: the smaller of what the weights allow and what the model was made for."""
    limits = [config.get(key) for key in CONTEXT_KEYS]
    if kind is not Kind.LLM:
        limits.append(_json(path / "sentence_bert_config.json").get("max_seq_length"))
        # Position ids of RoBERTa types start at 2, so only the tokenizer knows how much text fits.
        limits.append(_json(path / "tokenizer_config.json").get("model_max_length"))
    sane = [int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit < 10**8]
    return min(sane, default=None)


def _dimensions(path: Path, config: dict[str, Any], modules: list[_Module]) -> int | None:
    """The length of a vector: of the last module that changes it, else the hidden size."""
    for module in reversed(modules):
        found = _json(path / module.path / "config.json") if module.path else {}
        for key in ("out_features", "word_embedding_dimension", "embedding_dimension"):
            if isinstance(found.get(key), int):
                return int(found[key])
    hidden = config.get("hidden_size") or config.get("dim") or config.get("d_model")
    return int(hidden) if isinstance(hidden, int) else None


def _modules(path: Path) -> list[_Module]:
    file = path / "modules.json"
    if not file.is_file():
        return []
    try:
        modules = msgspec.json.decode(file.read_bytes(), type=list[_Module])
    except (msgspec.MsgspecError, OSError) as error:
        raise InvalidRequest(f"{file} cannot be read: {error}", param="model_path") from error
    # A cross-encoder saved by the same library lists modules too, but none that pools tokens to a vector.
    return modules if any(".Pooling" in module.type for module in modules) else []


def _json(file: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is missing."""
    if not file.is_file():
        return {}
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except (msgspec.MsgspecError, OSError) as error:
        raise InvalidRequest(f"{file} is no JSON object: {error}", param="model_path") from error


def _integers(value: object) -> tuple[int, ...]:
    return tuple(item for item in value if isinstance(item, int)) if isinstance(value, list) else ()
