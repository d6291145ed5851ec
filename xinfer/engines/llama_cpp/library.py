"""llama.cpp's C interface as objects: a model and its adapters, a context (its cache and its computations), a batch.

Nothing else here calls the library. Objects free themselves when nobody refers to them any more, a context before its
model.
"""

import contextlib
import ctypes
import functools
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as c
import numpy as np

from xinfer.errors import EngineFailed, LoadFailed

logger = logging.getLogger(__name__)

WARNING, ERROR = 3, 4
"""Its log levels, as far as they matter."""

CONTINUED = 5
"""The level of what continues a line."""

NO_ROOM = 1
"""What ``llama_decode`` returns when the cache is full; nothing has changed then."""


class _Log:
    """The library has one log for everything. Complaints go to ours, and those of a failed load into its reason."""

    def __init__(self) -> None:
        self._complaints: deque[str] = deque(maxlen=40)
        self._level = 0
        self._is_loading = False
        self.callback = c.llama_log_callback(self._receive)
        c.llama_log_set(self.callback, None)

    @contextlib.contextmanager
    def collected(self) -> Iterator[deque[str]]:
        """The complaints since the beginning of the block, which loads something."""
        self._complaints.clear()
        self._is_loading = True
        try:
            yield self._complaints
        finally:
            self._is_loading = False

    def _receive(self, level: int, text: bytes, _data: object) -> None:
        self._level = level = self._level if level == CONTINUED else level
        line = text.decode("utf-8", "replace").strip()
        if line and level == ERROR:
            logger.error("%s", line)
            self._complaints.append(line)
        elif line and level == WARNING:
            # Once it serves, it warns of what is expected here, such as a cache that is full.
            logger.log(logging.WARNING if self._is_loading else logging.DEBUG, "%s", line)


_loading = threading.Lock()


@contextlib.contextmanager
def loading(log_set: Callable[[Any, Any], None] | None = None) -> Iterator[Callable[[], str]]:
    """While something is loaded: gives what says why it failed, in the words of the library.

    Args:
        log_set: of another library that is part of it, to have one log for both.
    """
    log = _start()
    if log_set is not None:
        log_set(log.callback, None)
    with _loading, log.collected() as complaints:
        yield lambda: "; ".join(list(complaints)[-4:]) or "it does not say why"


@functools.cache
def _start() -> _Log:
    """Initialize the library, once."""
    log = _Log()
    c.llama_backend_init()
    return log


class Model:
    """Weights and vocabulary.

    Args:
        path: a GGUF file, the first one of a model that is split.
        settings: fields of ``llama_model_params``.
        progress: told how far loading is, 0..1.

    Raises:
        LoadFailed: it cannot be loaded; the message is what the library says.
    """

    def __init__(self, path: Path, settings: dict[str, Any], progress: Callable[[float], None]) -> None:
        params = c.llama_model_default_params()
        for name, value in settings.items():
            setattr(params, name, value)

        def tell(fraction: float, _data: object) -> bool:
            progress(fraction)
            return True

        params.progress_callback = c.llama_progress_callback(tell)
        with loading() as reason:
            self.pointer = c.llama_model_load_from_file(os.fsencode(path), params)
        if not self.pointer:
            raise LoadFailed(f"llama.cpp cannot load {path.name}: {reason()}")
        _free_with(self, c.llama_model_free, self.pointer)
        self.vocabulary = c.llama_model_get_vocab(self.pointer)
        self.vocabulary_size = int(c.llama_vocab_n_tokens(self.vocabulary))
        self.adapters_lock = threading.Lock()
        """Held while adapters come and go, and while something is computed, which looks at all of them."""
        self._unused_adapters: deque[Any] = deque()

    def metadata(self, key: str) -> str | None:
        """A value of the file's header as text."""
        size = c.llama_model_meta_val_str(self.pointer, key.encode(), None, 0)
        if size < 0:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        c.llama_model_meta_val_str(self.pointer, key.encode(), buffer, size + 1)
        return buffer.value.decode("utf-8", "replace")

    def number(self, key: str) -> float | None:
        """A number of the architecture's own part of the header, such as "context_length"."""
        text = self.metadata(f"{self.metadata('general.architecture')}.{key}")
        with contextlib.suppress(ValueError):
            return None if text is None else float(text)
        return None

    def template(self, name: str | None = None) -> str | None:
        """The chat template, or another one by name."""
        text = c.llama_model_chat_template(self.pointer, None if name is None else name.encode())
        return None if text is None else text.decode("utf-8", "replace")

    @property
    def trained_context(self) -> int:
        """Tokens."""
        return int(c.llama_model_n_ctx_train(self.pointer))

    @property
    def layers(self) -> int:
        """How many layers it has."""
        return int(c.llama_model_n_layer(self.pointer))

    @property
    def weight_bytes(self) -> int:
        """The size of all tensors."""
        return int(c.llama_model_size(self.pointer))

    @property
    def keeps_past(self) -> bool:
        """It decodes, and every token's keys and values can be dropped by themselves: it keeps no running state."""
        recurrent = c.llama_model_is_recurrent(self.pointer) or c.llama_model_is_hybrid(self.pointer)
        return bool(c.llama_model_has_decoder(self.pointer)) and not recurrent

    @property
    def window(self) -> int:
        """So many tokens back its layers with a sliding window look; 0: it has none."""
        return int(c.llama_model_n_swa(self.pointer))

    def discard_adapter(self, pointer: Any) -> None:
        """Nobody has an adapter any more. Called wherever that shows, which may be while something is computed."""
        self._unused_adapters.append(pointer)

    def free_adapters(self) -> None:
        """Free those that nobody has. The lock has to be held."""
        while self._unused_adapters:
            c.llama_adapter_lora_free(self._unused_adapters.popleft())

    @property
    def has_encoder(self) -> bool:
        """Something in it reads a text as a whole, before anything is written."""
        return bool(c.llama_model_has_encoder(self.pointer))


class LoraAdapter:
    """A LoRA adapter for one model. Freed before the next batch once nobody refers to it. Works in any thread.

    Args:
        model: stays loaded as long as this does.
        path: a GGUF file.

    Raises:
        LoadFailed: it cannot be loaded, or is for another model; the message is what the library says.
    """

    def __init__(self, model: Model, path: Path) -> None:
        with loading() as reason, model.adapters_lock:
            self.pointer = c.llama_adapter_lora_init(model.pointer, os.fsencode(path))
        if not self.pointer:
            raise LoadFailed(f"llama.cpp cannot load {path.name}: {reason()}")
        self.mark = object()
        """Stands for it where it must not be kept alive."""
        self._model = model
        weakref.finalize(self, model.discard_adapter, self.pointer).atexit = False


class Batch:
    """Tokens to compute: the library's structure over arrays that are filled in place.

    Args:
        capacity: tokens that fit.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._tokens: Any = np.zeros(capacity, np.int32)
        self._positions: Any = np.zeros(capacity, np.int32)
        self._sequences: Any = np.zeros(capacity, np.int32)
        self._outputs: Any = np.zeros(capacity, np.int8)
        self._counts: Any = np.ones(capacity, np.int32)
        self._addresses: Any = (self._sequences.ctypes.data + 4 * np.arange(capacity)).astype(np.uintp)
        self.structure = c.llama_batch(
            0,
            _pointer(self._tokens, ctypes.c_int32),
            None,
            _pointer(self._positions, ctypes.c_int32),
            _pointer(self._counts, ctypes.c_int32),
            _pointer(self._addresses, ctypes.POINTER(ctypes.c_int32)),
            _pointer(self._outputs, ctypes.c_int8),
        )

    @property
    def size(self) -> int:
        """Tokens in it."""
        return int(self.structure.n_tokens)

    def fill(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int], outputs: Sequence[int]
    ) -> None:
        """Replace what is in it.

        Args:
            tokens: their ids.
            positions: the place of each one in its sequence.
            sequences: whose each one is.
            outputs: 1 where logits (or an embedding) are wanted, else 0.
        """
        size = self.structure.n_tokens = len(tokens)
        self._tokens[:size] = tokens
        self._positions[:size] = positions
        self._sequences[:size] = sequences
        self._outputs[:size] = outputs


class Context:
    """The cache of one model, and what is computed with it. Belongs to one thread at a time.

    Args:
        model: stays loaded as long as this does.
        settings: fields of ``llama_context_params``.

    Raises:
        LoadFailed: there is not enough memory, or the model cannot do what is asked for.
    """

    def __init__(self, model: Model, settings: dict[str, Any]) -> None:
        params = c.llama_context_default_params()
        for name, value in settings.items():
            setattr(params, name, value)
        with loading() as reason:
            self.pointer = c.llama_init_from_model(model.pointer, params)
        if not self.pointer:
            raise LoadFailed(f"llama.cpp cannot make a context of {settings.get('n_ctx')} tokens: {reason()}")
        self._model = model  # dropped after the context: finalizers run before attributes go
        _free_with(self, c.llama_free, self.pointer)
        self._memory = c.llama_get_memory(self.pointer)
        self._vocabulary_size = model.vocabulary_size
        self._embedding_size = int(c.llama_model_n_embd_out(model.pointer))
        self._adapter: LoraAdapter | None = None
        self._logits: Any = None
        self._logits_place: tuple[int, int] | None = None

    @property
    def batch_size(self) -> int:
        """Tokens that one batch may have."""
        return int(c.llama_n_batch(self.pointer))

    @property
    def has_memory(self) -> bool:
        """It keeps what it has computed; encoders do not."""
        return bool(self._memory)

    @property
    def pooling(self) -> int:
        """How the vectors of a sequence become one (``LLAMA_POOLING_TYPE_*``)."""
        return int(c.llama_pooling_type(self.pointer))

    def use(self, adapter: LoraAdapter | None) -> None:
        """Compute with an adapter from the next batch on, or with none."""
        if adapter is self._adapter:
            return
        pointers = [] if adapter is None else [adapter.pointer]
        adapters = (c.llama_adapter_lora_p_ctypes * len(pointers))(*pointers)
        c.llama_set_adapters_lora(
            self.pointer, adapters, len(pointers), (ctypes.c_float * len(pointers))(*[1.0] * len(pointers))
        )
        self._adapter = adapter  # only now may the one before be freed

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """While it computes, which looks at all adapters of the model: none comes or goes meanwhile."""
        with self._model.adapters_lock:
            self._model.free_adapters()
            yield

    def decode(self, batch: Batch) -> bool:
        """Compute a batch. False: the cache has no room for it, and nothing has changed.

        Raises:
            EngineFailed: the library cannot go on.
        """
        with self.computing():
            code = c.llama_decode(self.pointer, batch.structure)
        if code not in {0, NO_ROOM}:
            raise EngineFailed(f"llama.cpp cannot decode a batch of {batch.size} tokens (it returned {code})")
        return bool(code == 0)

    def logits(self, rows: int) -> Any:
        """What the last batch gave, in the order of the tokens that asked for it: [rows, vocabulary], writable."""
        place = ctypes.addressof(c.llama_get_logits(self.pointer).contents), rows
        if place != self._logits_place:  # it is nearly always where it was
            self._logits_place = place
            self._logits = _floats_at(place[0], rows * self._vocabulary_size).reshape(rows, -1)
        return self._logits

    def pooled(self, sequence: int, size: int | None = None) -> Any:
        """The vector of a sequence in the last batch, a copy. ``size``: numbers in it, where it is no embedding."""
        pointer = c.llama_get_embeddings_seq(self.pointer, sequence)
        if not pointer:
            raise EngineFailed("llama.cpp gave no embedding")
        return _floats_at(ctypes.addressof(pointer.contents), size or self._embedding_size).copy()

    def keep(self, sequence: int, position: int) -> None:
        """Forget what a sequence has from a position on."""
        c.llama_memory_seq_rm(self._memory, sequence, position, -1)

    def first_position(self, sequence: int) -> int:
        """The first position from which on all is there that a sequence has; -1: it has nothing."""
        return int(c.llama_memory_seq_pos_min(self._memory, sequence))

    def copy(self, source: int, target: int) -> None:
        """Make a sequence know what another one knows. Done together with the next batch."""
        c.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def clear(self, *, wipe: bool = False) -> None:
        """Forget all sequences, where there is a cache at all. ``wipe``: leave nothing but zeros in it."""
        if self._memory:
            c.llama_memory_clear(self._memory, wipe)


class SamplerChain:
    """Random choice of a token by the library: top_k, temperature, top_p, min_p, then a draw.

    Args:
        steps: what ``llama_sampler_init_<name>`` is called with, in order.
    """

    def __init__(self, steps: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
        self._pointer = c.llama_sampler_chain_init(c.llama_sampler_chain_default_params())
        _free_with(self, c.llama_sampler_free, self._pointer)
        for name, arguments in steps:
            c.llama_sampler_chain_add(self._pointer, getattr(c, f"llama_sampler_init_{name}")(*arguments))

    def sample(self, context: Context, index: int) -> int:
        """A token for the token at ``index`` of the context's last batch, which has asked for logits."""
        return int(c.llama_sampler_sample(self._pointer, context.pointer, index))


def _floats_at(address: int, count: int) -> Any:
    """An array over memory of the library."""
    return np.frombuffer((ctypes.c_float * count).from_address(address), np.float32)


def _free_with(owner: object, free: Callable[[Any], None], pointer: Any) -> None:
    """Free something of the library with the object that stands for it, but not when Python ends: all goes then."""
    weakref.finalize(owner, free, pointer).atexit = False


def _pointer(array: Any, kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))
