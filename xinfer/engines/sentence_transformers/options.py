"""The engine keywords that a launch may carry."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from xinfer.engines.batch_queue import BatchLimits

TOKENS_PER_THREAD = 1024
"""Tokens of a batch that keep one CPU core busy while its caches still hold them; larger batches are slower."""
TOKENS_ON_ACCELERATOR = 16384


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the engine."""

    device: str = "auto"
    """"cpu", "cuda", "cuda:1", "mps"; auto: CUDA where there is one, else the CPU."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """auto: float32 on a CPU, on an accelerator what the weights are stored in."""
    max_batch_tokens: Annotated[int, Meta(ge=1)] | None = None
    """Tokens of a batch, padding included; unset: 1,024 per CPU thread, 16,384 on an accelerator."""
    max_batch_items: Annotated[int, Meta(ge=1)] = 256
    max_length: Annotated[int, Meta(ge=1)] | None = None
    """The longest input in tokens, where that is less than what the model takes."""
    normalize: bool | None = None
    """Whether vectors have unit length; unset: as the folder says."""
    pooling: Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"] | None = None
    """How the vectors of tokens become one; unset: as the folder says."""
    prompt: str | None = None
    """Put before every text; unset: the folder's default prompt, if it has one."""
    prompt_name: str | None = None
    """One of the folder's prompts, instead of ``prompt``."""
    trust_remote_code: bool = False
    """Run Python code that is in the folder."""
    implementation: Literal["auto", "native", "library"] = "auto"
    """native: our encoder (BERT, RoBERTa, XLM-RoBERTa); library: sentence-transformers; auto: native where it can."""

    def limits(self, *, threads: int, on_cpu: bool, packed: bool) -> BatchLimits:
        """What bounds a batch. Where inputs run packed, padding costs little."""
        tokens = self.max_batch_tokens or (TOKENS_PER_THREAD * threads if on_cpu else TOKENS_ON_ACCELERATOR)
        return BatchLimits(max_tokens=tokens, max_items=self.max_batch_items, max_padding=0.5 if packed else 0.25)
