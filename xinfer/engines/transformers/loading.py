"""Reading a model: import the library, choose device and type, read weights and tokenizer, and check that it works."""

import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from xinfer.devices import Grant
from xinfer.engines.base import Progress
from xinfer.engines.token_engine import Limits, LoadedModel
from xinfer.engines.token_engine.model_folder import read_json, recommended_sampling, stop_ids
from xinfer.engines.torch_device import pick_device
from xinfer.engines.transformers import attention
from xinfer.engines.transformers.checks import check_cache, native_fault
from xinfer.engines.transformers.checks_of_images import check_images
from xinfer.engines.transformers.fitness import unfit
from xinfer.engines.transformers.lora import AdapterWeights, read_adapter
from xinfer.engines.transformers.model import SlotModel
from xinfer.engines.transformers.native import NativeDecoder, unsuited
from xinfer.engines.transformers.options import TransformersOptions
from xinfer.engines.transformers.quantized_weights import reading_arguments
from xinfer.engines.transformers.runner import BatchRunner
from xinfer.engines.transformers.shape import MIN_LENGTH, CacheLimits, CacheShape
from xinfer.engines.transformers.tokenizer import FastTokenizer
from xinfer.errors import LoadFailed
from xinfer.generation.chat_template import load_chat_template
from xinfer.generation.context import context_length
from xinfer.generation.marks import shown_marks
from xinfer.ops import Kind
from xinfer.spec import Adapter, ModelSpec

if TYPE_CHECKING:
    from xinfer.engines.transformers.images import ImagePrompts

logger = logging.getLogger(__name__)

MIB = 1024 * 1024
PROCESS_MIB = 560
"""What Python and torch take beside weights and cache, with what a first step loads of the library."""
CACHE_SHARE = 0.8
"""The cache's part of what is left then. The rest is for the work of a step, and for what the allocator keeps when the
cache grows and has to be copied."""
LEAST_CACHE_MIB = 64
"""A lease that is smaller than it should be still gets so much cache: the enforcer of the lease decides, not we."""


def load_model(spec: ModelSpec, options: TransformersOptions, grant: Grant, progress: Progress) -> LoadedModel:
    """Read a model and make it ready. Works in any thread.

    Raises:
        LoadFailed: the model cannot be served by this engine, or does not fit; says why.
        Exception: whatever the library raises while it reads the files.
    """
    folder = Path(spec.source)
    config = read_json(folder / "config.json")
    if reason := unfit(config, spec.kind):
        raise LoadFailed(f"transformers cannot serve {spec.name!r}: {reason}")
    torch.set_num_threads(grant.threads)
    transformers.utils.logging.disable_progress_bar()  # the log of a replica is no terminal
    attention.register()
    sees = spec.kind is Kind.VISION_LANGUAGE
    model_class = _model_class(config, sees=sees, trusted=options.trust_remote_code)
    device = _device(options, grant)
    progress("reading weights", 0.3)
    dtype = _dtype(options, config, device.type == "cpu", folder, grant)
    quantized = reading_arguments(config, options.quantize, dtype, device)
    model = _read_weights(model_class, folder, dtype, quantized, sees=sees, trusted=options.trust_remote_code)
    model = (model if "device_map" in quantized else model.to(device)).eval()
    progress("warming up", 0.8)
    context = _context_length(spec, options, model.config.get_text_config())
    slots = SlotModel(model, context)
    check_cache(slots)
    if options.implementation != "library":
        run_natively(slots, insist=options.implementation == "native")
    limits = _cache_limits(slots, options, grant, context)
    template = load_chat_template(folder)
    tokenizer = FastTokenizer(folder, slots.vocabulary_size, shown_marks(template.source if template else ""))
    reader = _image_reader(folder, slots, tokenizer) if sees else None
    slots.cache.resize(CacheShape(1, MIN_LENGTH))
    progress("warming up", 1.0)
    return LoadedModel(
        runner=BatchRunner(slots, limits, options.prefill_chunk),
        read_adapter=lambda adapter: _adapter_for(slots, adapter),
        image_reader=reader,
        tokenizer=tokenizer,
        control_tokens=tokenizer.control_tokens,
        template=template,
        limits=Limits(
            context_length=limits.max_length,
            vocabulary_size=slots.vocabulary_size,
            stop_ids=stop_ids(folder, tokenizer.id_of),
            defaults=recommended_sampling(folder),
        ),
    )


# --- the model ---


def _model_class(config: dict[str, Any], *, sees: bool, trusted: bool) -> Any:
    """The class that the model's files name: finding it through AutoModel would import a table of all of them."""
    names = config.get("architectures") or []
    found = getattr(transformers, names[0], None) if names and not trusted else None
    other = transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
    return other if found is None else found


def _device(options: TransformersOptions, grant: Grant) -> torch.device:
    slices = grant.lease.slices
    if len(slices) > 1:
        raise LoadFailed(
            f"transformers runs a replica on one device, and {len(slices)} were given; launch with n_gpu=1"
        )
    return pick_device(options.device, grant)


def _dtype(options: TransformersOptions, config: dict[str, Any], on_cpu: bool, folder: Path, grant: Grant) -> str:
    """As stored. A CPU computes exactly and at least as fast with float32, which it gets where memory has room."""
    wanted = options.dtype or options.torch_dtype or "auto"
    if wanted != "auto" or not on_cpu:
        return wanted
    stored = config.get("dtype") or config.get("torch_dtype")
    if options.quantize or config.get("quantization_config"):  # whoever quantizes has little room
        return "bfloat16" if stored == "float16" else "auto"
    files = [*folder.glob("*.safetensors")] or [*folder.glob("pytorch_model*.bin")]
    weights_mib = sum(path.stat().st_size for path in files) // MIB
    slices = grant.lease.slices
    if not slices or 2 * weights_mib + PROCESS_MIB + LEAST_CACHE_MIB <= slices[0].memory_mib:
        return "float32"
    return "bfloat16" if stored == "float16" else "auto"


def _read_weights(
    model_class: Any, folder: Path, dtype: str, quantized: Mapping[str, Any], *, sees: bool, trusted: bool
) -> Any:
    try:
        model, report = model_class.from_pretrained(
            folder,
            output_loading_info=True,
            dtype=dtype,
            # What looks at images keeps the library's own attention.
            attn_implementation={"text_config": attention.IMPLEMENTATION} if sees else attention.IMPLEMENTATION,
            trust_remote_code=trusted,
            local_files_only=True,
            **quantized,
        )
    except KeyError as error:
        if error.args != (attention.IMPLEMENTATION,):
            raise
        raise LoadFailed(
            f"{model_class.__name__} computes its attention in classes of its own, so that it cannot read the cache of "
            "this engine; vLLM or llama.cpp may serve it"
        ) from error
    if missing := sorted(report["missing_keys"]):  # the library makes up what is not there
        raise LoadFailed(f"its files lack {len(missing)} of its weights, such as {missing[0]}; download it again")
    if getattr(model, "_is_stateful", False):
        raise LoadFailed(f"{type(model).__name__} keeps a state that is no cache of keys and values")
    return model


def run_natively(slots: SlotModel, *, insist: bool) -> None:
    """Let a model that has passed ``check_cache`` run on our own forward pass, if that gives the same logits.

    Args:
        slots: the model.
        insist: refuse a model that cannot, rather than leave it to the library.

    Raises:
        LoadFailed: it cannot, and was to; says why.
    """
    reason = unsuited(slots.model)
    if not reason:
        slots.native = NativeDecoder(slots.model)
        reason = native_fault(slots)
    if not reason:
        return
    slots.native = None
    if insist:
        raise LoadFailed(f"{type(slots.model).__name__} cannot run natively: {reason}; use implementation=auto")
    logger.info("running %s with the library's own classes: %s", type(slots.model).__name__, reason)


def _image_reader(folder: Path, slots: SlotModel, tokenizer: FastTokenizer) -> "ImagePrompts":
    """What makes prompts with images, once a trial shows that it is right."""
    if importlib.util.find_spec("PIL") is None:
        raise LoadFailed("reading images needs the package pillow, which is not installed here: pip install pillow")
    from xinfer.engines.transformers.images import ImagePrompts  # noqa: PLC0415 - an installation may lack Pillow
    from xinfer.engines.transformers.processor import load_processor  # noqa: PLC0415 - only for models that see

    processor = load_processor(folder, slots.model.config)
    reader = ImagePrompts(processor, slots.model)
    check_images(slots, reader, processor, tokenizer)
    return reader


def _adapter_for(slots: SlotModel, adapter: Adapter) -> AdapterWeights:
    if slots.native is None:
        raise LoadFailed(
            f"{type(slots.model).__name__} runs with the library's own classes here, which take no adapters; vLLM may"
        )
    return read_adapter(adapter, slots.model)


# --- limits and defaults ---


def _context_length(spec: ModelSpec, options: TransformersOptions, config: Any) -> int:
    made_for = context_length(config.to_dict()) or spec.context_length or 2048
    asked = options.max_model_len or options.context_length
    if asked is not None and asked > made_for:
        raise LoadFailed(f"a context of {asked} tokens was asked for, and the model was made for {made_for}")
    return int(asked or min(made_for, spec.context_length or made_for))


def _cache_limits(slots: SlotModel, options: TransformersOptions, grant: Grant, context: int) -> CacheLimits:
    """How many tokens the cache may hold: what the lease leaves beside the weights."""
    positions = options.max_num_seqs * context
    if grant.lease.slices:
        granted = grant.lease.slices[0].memory_mib
        held = (
            *slots.model.parameters(),
            *slots.model.buffers(),
        )  # some methods of quantization keep weights as buffers
        weights = sum(part.numel() * part.element_size() for part in held)
        room = max(int((granted - PROCESS_MIB - weights // MIB) * CACHE_SHARE), LEAST_CACHE_MIB)
        positions = min(positions, room * MIB // slots.cache.position_bytes())
    if positions < min(context, MIN_LENGTH):
        raise LoadFailed(
            f"the memory that was granted leaves room for {positions} tokens, which is less than {MIN_LENGTH}; "
            "give it more MiB"
        )
    return CacheLimits(max_rows=options.max_num_seqs, max_length=min(context, positions), positions=positions)
