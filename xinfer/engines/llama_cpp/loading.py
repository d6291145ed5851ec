"""Reading a GGUF file: how much of it goes where, and what its header says about tokens and templates."""

import logging
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as c

from xinfer.devices import Grant
from xinfer.engines.base import Progress
from xinfer.engines.llama_cpp.library import Context, LoraAdapter, Model
from xinfer.engines.llama_cpp.options import FOR_VECTORS, CacheType, LlamaCppOptions
from xinfer.engines.llama_cpp.pace import Pace
from xinfer.engines.llama_cpp.planning import CachePlan, Offload, Shape, cache_budget, cache_plan, offload
from xinfer.engines.llama_cpp.runner import SCORED_CHUNK, LlamaRunner
from xinfer.engines.llama_cpp.slots import SlotTable
from xinfer.engines.llama_cpp.tensors import parts_of
from xinfer.engines.llama_cpp.tokenizer import LlamaTokenizer
from xinfer.engines.llama_cpp.vision import ImageEncoder, PromptsWithImages
from xinfer.engines.token_engine import Limits, LoadedModel
from xinfer.errors import LoadFailed
from xinfer.generation.chat_template import FOR_TOOLS, template_of
from xinfer.generation.reasoning import reasoning_form
from xinfer.generation.tool_calls import tool_form
from xinfer.ops import Kind
from xinfer.spec import ModelSpec

MMPROJ = "*mmproj*.gguf"
"""How the files that read images for a model are called by custom."""

logger = logging.getLogger(__name__)

_SPLIT_MODES = {"none": c.LLAMA_SPLIT_MODE_NONE, "layer": c.LLAMA_SPLIT_MODE_LAYER, "row": c.LLAMA_SPLIT_MODE_ROW}
_ROPE_SCALING = {"none": 0, "linear": 1, "yarn": 2, "longrope": 3}
_LOAD_MODES = {
    (False, False): c.LLAMA_LOAD_MODE_NONE,
    (True, False): c.LLAMA_LOAD_MODE_AUTO,
    (False, True): c.LLAMA_LOAD_MODE_MLOCK,
    (True, True): c.LLAMA_LOAD_MODE_MMAP_MLOCK,
}
"""By whether the file is mapped, and whether it is locked."""


def load_generator(spec: ModelSpec, options: LlamaCppOptions, grant: Grant, progress: Progress) -> LoadedModel:
    """Load a language model for continuous batching. Works in any thread.

    Raises:
        LoadFailed: the model cannot be served by this engine, or does not fit; says why.
    """
    path = Path(spec.source)
    options.refuse(FOR_VECTORS, f"{spec.name!r} is a model of type {spec.kind}")
    projector = projector_of(spec, options)
    share = offload_of(path, options, grant)
    model = open_model(path, options, share, progress)
    if model.has_encoder:
        raise LoadFailed(f"{path.name} has an encoder; this engine serves models that only continue text")
    shape = shape_of(model, model.weight_bytes + (projector.stat().st_size if projector else 0))
    on_device = share.layers / (shape.layers + 1) if accelerators(grant) else 1.0
    plan = cache_plan(shape, options, cache_budget(shape, granted_mib(grant), on_device))
    progress("making the cache", 0.9)
    context = Context(model, _context_settings(plan, options, grant))
    if not context.has_memory:
        raise LoadFailed(
            f"{path.name} does not continue text; if it is for embeddings or reranking, launch it with "
            "model_type=embedding or rerank"
        )
    plain, for_tools = model.template(), model.template(FOR_TOOLS)
    source = for_tools or plain or ""
    bare = LlamaTokenizer(model)
    special = bare.special_tokens()
    reasoning, calls = reasoning_form(source, bare.vocabulary), tool_form(source)
    encoder = None if projector is None else _image_encoder(projector, options, grant, model)
    tokenizer = LlamaTokenizer(
        model,
        visible={*(reasoning.marks if reasoning else ()), *(calls.marks if calls else ())},
    )
    progress("ready", 1.0)
    return LoadedModel(
        runner=LlamaRunner(
            context,
            SlotTable(
                plan.sequences,
                shares=_shares_prefixes(options, model),
                neighbours=not options.kv_unified and model.keeps_past,
                # In a shared cache, tokens behind the window of their sequence give their places to others.
                window=model.window if options.kv_unified else 0,
            ),
            capacity=plan.tokens,
            pace=Pace(options.n_ubatch, fixed=options.prefill_chunk),
            encoder=encoder,
        ),
        image_reader=None if encoder is None else PromptsWithImages(encoder),
        tokenizer=tokenizer,
        template=template_of(source or None, (plain or None) if for_tools else None, special),
        limits=Limits(
            context_length=plan.context,
            vocabulary_size=model.vocabulary_size,
            stop_ids=tokenizer.stop_ids(),
            defaults=_recommended(model),
        ),
        read_adapter=lambda adapter: LoraAdapter(model, Path(adapter.path)),
        beginning=() if _writes_beginning(source, special) else bare.beginning(),
        # Templates look for the tags of thoughts in earlier answers, and cut them out.
        control_tokens=tokenizer.control_tokens() - ({reasoning.start, reasoning.end} if reasoning else set()),
    )


def projector_of(spec: ModelSpec, options: LlamaCppOptions) -> Path | None:
    """The file that reads images for the model; None: nothing does.

    Raises:
        LoadFailed: there is none, and there should be one.
    """
    wanted = spec.kind is Kind.VISION_LANGUAGE if options.mmproj is None else options.mmproj != "none"
    if not wanted:
        return None
    model = Path(spec.source)
    name = options.mmproj or MMPROJ
    found = sorted(file for file in model.parent.glob(MMPROJ) if file != model)
    file = found[0] if options.mmproj is None and found else model.parent / name
    if not file.is_file():
        raise LoadFailed(
            f"there is no file {name} beside {model.name}, which would read images for it; put it there, or launch the "
            "model for text alone, with mmproj=none"
        )
    return file


def _image_encoder(file: Path, options: LlamaCppOptions, grant: Grant, model: Model) -> ImageEncoder:
    return ImageEncoder(
        file,
        model,
        threads=options.n_threads_batch or options.n_threads or grant.threads,
        use_gpu=bool(accelerators(grant)) and options.n_gpu_layers != 0,
        longest=options.n_ubatch,
    )


def offload_of(path: Path, options: LlamaCppOptions, grant: Grant) -> Offload:
    """What goes to accelerators.

    Raises:
        LoadFailed: there is no such file, or accelerators are asked for and there are none.
    """
    if not path.is_file():
        raise LoadFailed(f"{path} is no file; this engine loads GGUF files")
    devices = accelerators(grant)
    if c.llama_supports_gpu_offload() and devices:
        header = Model(path, {"vocab_only": True}, _ignore)
        share = offload(shape_of(header, weight_bytes=_size_on_disk(path)), options, devices)
        logger.info("%d of %d layers go to accelerators", share.layers, header.layers + 1)
        return share
    if asked := options.needs_accelerators:
        reason = "it was built for CPUs only" if devices else "no accelerator is leased"
        raise LoadFailed(f"{asked} was asked for, and llama.cpp cannot do that: {reason}")
    return Offload(layers=0)


def open_model(path: Path, options: LlamaCppOptions, share: Offload, progress: Progress) -> Model:
    """Load the weights.

    Raises:
        LoadFailed: they cannot be loaded; the message is what the library says.
    """
    settings: dict[str, Any] = {
        "load_mode": _LOAD_MODES[options.use_mmap, options.use_mlock],
        "check_tensors": options.check_tensors,
        "n_gpu_layers": share.layers,
        "split_mode": _SPLIT_MODES[options.split_mode],
        "main_gpu": options.main_gpu,
    }
    if share.split:
        settings["tensor_split"] = _tensor_split(share.split)
    progress("reading weights", 0.1)
    return Model(path, settings, lambda fraction: progress("reading weights", 0.1 + 0.8 * fraction))


def shape_of(model: Model, weight_bytes: int | None = None) -> Shape:
    """What a model's header says about its size."""
    heads = model.number("attention.head_count") or 1
    head_size = (model.number("embedding_length") or 0) / heads
    shared_heads = model.number("attention.head_count_kv") or heads
    return Shape(
        layers=model.layers,
        key_width=int(shared_heads * (model.number("attention.key_length") or head_size)),
        value_width=int(shared_heads * (model.number("attention.value_length") or head_size)),
        trained_context=model.trained_context,
        weight_bytes=model.weight_bytes if weight_bytes is None else weight_bytes,
    )


def accelerators(grant: Grant) -> list[Any]:
    """The budgets of everything that is no CPU."""
    return [budget for budget in grant.budgets if budget.kind != "cpu"]


def granted_mib(grant: Grant) -> int | None:
    """MiB of all that was leased; ``None`` without a lease."""
    return sum(part.memory_mib for part in grant.lease.slices) if grant.lease.slices else None


def shared_settings(options: LlamaCppOptions, grant: Grant) -> dict[str, Any]:
    """Fields of the context that do not depend on what it is for."""
    flash = options.flash_attention
    settings: dict[str, Any] = {
        "n_threads": options.n_threads or grant.threads,
        "n_threads_batch": options.n_threads_batch or options.n_threads or grant.threads,
        "flash_attn_type": c.LLAMA_FLASH_ATTN_TYPE_AUTO if flash is None else int(flash),
        "offload_kqv": options.offload_kqv,
        "rope_freq_base": options.rope_freq_base,
        "rope_freq_scale": options.rope_freq_scale,
        "no_perf": True,
    }
    if options.rope_scaling_type is not None:
        settings["rope_scaling_type"] = _ROPE_SCALING[options.rope_scaling_type]
    for name in ("yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"):
        if (value := getattr(options, name)) >= 0:
            settings[name] = value
    if options.yarn_orig_ctx:
        settings["yarn_orig_ctx"] = options.yarn_orig_ctx
    return settings


def _context_settings(plan: CachePlan, options: LlamaCppOptions, grant: Grant) -> dict[str, Any]:
    return {
        **shared_settings(options, grant),
        "n_ctx": plan.tokens,
        "n_seq_max": plan.sequences,
        "n_batch": min(plan.tokens, max(options.n_batch, plan.sequences + options.n_ubatch)),
        "n_ubatch": options.n_ubatch,
        "n_outputs_max": plan.sequences + SCORED_CHUNK,
        "type_k": _number_type(options.key_type),
        "type_v": _number_type(options.value_type),
        "swa_full": options.swa_full,
        "kv_unified": options.kv_unified,
    }


def _number_type(name: CacheType) -> int:
    return int(getattr(c, f"GGML_TYPE_{name.upper()}"))


def _shares_prefixes(options: LlamaCppOptions, model: Model) -> bool:
    """A cache that drops what is behind the window lacks what comes before the middle of a sequence."""
    return options.prefix_caching and model.keeps_past and (options.swa_full or not model.window)


def _tensor_split(shares: tuple[float, ...]) -> Any:
    room = int(c.llama_max_devices())
    return (c.ctypes.c_float * room)(*shares[:room])


def _size_on_disk(path: Path) -> int:
    """Bytes of a file, and of the others that it is split into."""
    return sum(part.stat().st_size for part in parts_of(path))


def _writes_beginning(template: str, special: dict[str, str]) -> bool:
    """Whether a template writes the token that begins texts."""
    return "bos_token" in template or special.get("bos_token", "bos_token") in template


_RECOMMENDED = {
    "temperature": "general.sampling.temp",
    "top_p": "general.sampling.top_p",
    "top_k": "general.sampling.top_k",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}


def _recommended(model: Model) -> dict[str, float]:
    """Sampling defaults of the model's authors, where the header has them."""
    found = {name: model.metadata(key) for name, key in _RECOMMENDED.items()}
    return {name: float(text) for name, text in found.items() if text}


def _ignore(_fraction: float) -> None:
    pass
