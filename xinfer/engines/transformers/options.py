from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from xinfer.engines.transformers.quantization import Quantize


class TransformersOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Engine keywords of a launch."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    """``auto``: as the weights are stored; on a CPU float32 if the granted memory has room, and never float16."""
    torch_dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    """The older name of ``dtype``."""
    device: Annotated[str, Meta(pattern="^(auto|cpu|cuda(:[0-9]+)?)$")] = "auto"
    max_num_seqs: Annotated[int, Meta(ge=1, le=1024)] = 32
    """How many sequences run at once; the rest wait."""
    max_model_len: Annotated[int, Meta(ge=16)] | None = None
    """Context in tokens; by default what the model was made for, or what the memory holds if that is less."""
    context_length: Annotated[int, Meta(ge=16)] | None = None
    """Another name of ``max_model_len``."""
    quantize: Quantize | None = None
    """Quantize plain weights to this while they are read, with bitsandbytes; embeddings and output stay as they are."""
    prefill_chunk: Annotated[int, Meta(ge=16)] = 512
    """So many tokens of prompts are read between two tokens of the running sequences."""
    trust_remote_code: bool = False
    """Run Python code from the model's folder. Only for models whose code you have read."""
    implementation: Literal["auto", "native", "library"] = "auto"
    """native: our decoder (Llama, Mistral, Qwen2, Qwen3); library: the library's classes; auto: native where it can."""
