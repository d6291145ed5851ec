"""The engine keywords that a launch may carry, under llama.cpp's names and those of other engines."""

from collections.abc import Collection
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from xinfer.errors import InvalidRequest

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
"""What keys and values are stored in. Quantized values need flash attention."""

MAX_SEQUENCES = 256
"""What llama.cpp is compiled for."""

FOR_TEXT = (
    "n_ctx",
    "n_parallel",
    "max_num_seqs",
    "type_k",
    "cache_type_k",
    "type_v",
    "cache_type_v",
    "kv_unified",
    "swa_full",
    "prefix_caching",
    "n_batch",
    "prefill_chunk",
    "mmproj",
)
"""Options of models that write text: the others keep nothing, and see nothing but text."""

FOR_EMBEDDINGS = ("pooling_type", "normalize")
"""Options of models that make vectors."""

FOR_VECTORS = (*FOR_EMBEDDINGS, "max_batch_items")
"""Options of embedding and rerank models."""

Tokens = Annotated[int, Meta(ge=16, le=2**31 - 1)]
Threads = Annotated[int, Meta(ge=1, le=512)]
Sequences = Annotated[int, Meta(ge=1, le=MAX_SEQUENCES)]
Shares = Annotated[str, Meta(pattern=r"^\d+(\.\d+)?(,\d+(\.\d+)?)+$")]
NotNegative = Annotated[float, Meta(ge=0, le=1e12)]
OrUnset = Annotated[float, Meta(ge=-1, le=1e12)]


class LlamaCppOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the engine. Where two names mean the same, the first that is given counts."""

    # --- the cache of keys and values ---
    n_ctx: Tokens | None = None
    """Tokens in the cache, of all sequences together; unset: what the lease has room for."""
    max_model_len: Tokens | None = None
    """The longest sequence (prompt and answer); unset: what the model was made for, or its share of the cache."""
    context_length: Tokens | None = None
    n_parallel: Sequences | None = None
    """How many sequences run at once; the rest wait. Unset: at most 16, fewer where the cache is small."""
    max_num_seqs: Sequences | None = None
    type_k: CacheType | None = None
    """What keys are stored in; unset: f16."""
    cache_type_k: CacheType | None = None
    type_v: CacheType | None = None
    cache_type_v: CacheType | None = None
    kv_unified: bool = False
    """All sequences share one cache, rather than each having a part of it: longer contexts in little memory, but every
    token looks at the whole cache, and when that is full the youngest sequence has to start again."""
    swa_full: bool = True
    """Layers with a sliding window keep all tokens, so that prefixes can be reused; else those in the window, which
    takes less memory, and every prompt is read as a whole."""
    prefix_caching: bool = True
    """Keep what was computed for a prompt, for later ones that begin alike."""

    # --- how much is computed at once ---
    n_batch: Tokens = 2048
    """Tokens handed over at once, at most."""
    n_ubatch: Tokens = 512
    """Tokens computed at once, at most."""
    prefill_chunk: Annotated[int, Meta(ge=1)] | None = None
    """Tokens of prompts that are read between two tokens of running sequences; unset: as many, up to n_ubatch, as hold
    those up for no more than a sixth of a second."""
    n_threads: Threads | None = None
    """CPU threads; unset: what the lease grants."""
    n_threads_batch: Threads | None = None
    """CPU threads for prompts, where that is another number."""
    flash_attn: bool | Literal["auto", "on", "off"] = "auto"

    # --- where the weights are ---
    n_gpu_layers: Annotated[int, Meta(ge=-1)] | Literal["auto", "all"] = "auto"
    """Layers on accelerators; auto: as many as fit into the lease; -1: all."""
    split_mode: Literal["none", "layer", "row"] = "layer"
    """How several accelerators share the work."""
    main_gpu: Annotated[int, Meta(ge=0)] = 0
    tensor_split: tuple[Annotated[float, Meta(ge=0)], ...] | Shares = ()
    """The share of each accelerator, also as "3,1"; unset: in proportion to what is leased of each."""
    offload_kqv: bool = True
    """The cache is where the layers are."""
    use_mmap: bool = True
    """Map the file into memory instead of reading it."""
    use_mlock: bool = False
    """Keep the weights from being swapped out."""
    check_tensors: bool = False
    """Look for numbers that are none while loading."""

    # --- rotary positions, for contexts longer than the model was made for ---
    rope_scaling_type: Literal["none", "linear", "yarn", "longrope"] | None = None
    rope_freq_base: NotNegative = 0.0
    """0: as the file says."""
    rope_freq_scale: NotNegative = 0.0
    yarn_ext_factor: OrUnset = -1.0
    """-1: as the file says."""
    yarn_attn_factor: OrUnset = -1.0
    yarn_beta_fast: OrUnset = -1.0
    yarn_beta_slow: OrUnset = -1.0
    yarn_orig_ctx: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    """0: as the file says."""

    # --- models that see ---
    mmproj: Annotated[str, Meta(pattern=r"^([^/\\]+\.gguf|none)$")] | None = None
    """The file beside the model's that reads images for it; unset: one with mmproj in its name; none: text alone."""

    # --- embedding and rerank models ---
    pooling_type: Literal["mean", "cls", "last"] | None = None
    """How the vectors of tokens become one; unset: as the file says."""
    normalize: bool = True
    """Vectors have unit length."""
    max_batch_items: Sequences = 64
    """Texts computed at once, at most; tokens are bounded by ``n_ubatch``."""

    @property
    def sequence_tokens(self) -> int | None:
        """The longest sequence that was asked for."""
        return self.max_model_len or self.context_length

    @property
    def sequences(self) -> int | None:
        """How many sequences were asked for."""
        return self.n_parallel or self.max_num_seqs

    @property
    def shares(self) -> tuple[float, ...]:
        """``tensor_split`` as numbers."""
        given = self.tensor_split
        return tuple(map(float, given.split(","))) if isinstance(given, str) else given

    @property
    def needs_accelerators(self) -> str:
        """What was asked for that means nothing without any, as it was written; empty: nothing."""
        if self.n_gpu_layers not in {"auto", 0}:
            return f"n_gpu_layers={self.n_gpu_layers}"
        if self.shares:
            return f"tensor_split={','.join(f'{share:g}' for share in self.shares)}"
        return f"main_gpu={self.main_gpu}" if self.main_gpu else ""

    def refuse(self, names: Collection[str], why: str) -> None:
        """Refuse options that would change nothing.

        Args:
            names: of them.
            why: the model has no use for them.

        Raises:
            InvalidRequest: one of them was given another value than it has by default.
        """
        for field in msgspec.structs.fields(self):
            if field.name in names and getattr(self, field.name) != field.default:
                raise InvalidRequest(
                    f"{field.name}={getattr(self, field.name)} changes nothing here, because {why}: leave it out",
                    param=field.name,
                )

    @property
    def key_type(self) -> CacheType:
        """What keys are stored in."""
        return self.type_k or self.cache_type_k or "f16"

    @property
    def value_type(self) -> CacheType:
        """What values are stored in."""
        return self.type_v or self.cache_type_v or "f16"

    @property
    def flash_attention(self) -> bool | None:
        """``None``: where it is supported."""
        if isinstance(self.flash_attn, bool):
            return self.flash_attn
        return {"auto": None, "on": True, "off": False}[self.flash_attn]
