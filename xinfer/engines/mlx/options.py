from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class MlxOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Engine keywords of a launch."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """``auto``: as the weights are stored; on a CPU float32, which it computes fastest. Quantized weights stay so."""
    max_num_seqs: Annotated[int, Meta(ge=1, le=1024)] = 32
    """How many sequences run at once; the rest wait."""
    max_model_len: Annotated[int, Meta(ge=16)] | None = None
    """Context in tokens; by default what the model was made for, or what the memory holds if that is less."""
    prefill_chunk: Annotated[int, Meta(ge=16)] = 512
    """So many tokens of prompts are read between two tokens of the running sequences."""
    trust_remote_code: bool = False
    """Run Python code from the model's folder. Only for models whose code you have read."""
