import asyncio
import contextlib
import importlib.metadata
import importlib.util
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec

from xinfer.devices import Grant
from xinfer.engines.base import (
    SSE_HEAD,
    Available,
    Call,
    EngineMemory,
    Frame,
    Head,
    Load,
    Match,
    Progress,
    Requirements,
    parse_options,
)
from xinfer.engines.torch_device import cpu_build, pick_device
from xinfer.engines.whisper.worker import Worker
from xinfer.ops import Kind, Op
from xinfer.protocols.transcriptions import (
    MEDIA_TYPES,
    Transcript,
    TranscriptionRequest,
    delta_event,
    done_event,
    duration_usage,
    encode_transcript,
    parse_transcription,
    refuse_others,
)
from xinfer.spec import Format, ModelSpec

if TYPE_CHECKING:
    from xinfer.engines.whisper.listener import Listener
    from xinfer.engines.whisper.model import WhisperModel

LIBRARIES = ("torch", "transformers", "av")


class WhisperOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Engine keywords of a launch."""

    device: str = "auto"
    """"cpu", "cuda", "cuda:1"; auto: what the slice is of."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """auto: float32 on a CPU, on an accelerator what the weights are stored in."""


class WhisperEngine:
    """See the package."""

    name: ClassVar[str] = "whisper"
    title: ClassVar[str] = "speech recognition with Whisper, on CPU or CUDA; recordings of any length, one at a time"
    ops: ClassVar[frozenset[Op]] = frozenset({Op.TRANSCRIPTION, Op.TRANSLATION})
    formats: ClassVar[frozenset[Format]] = frozenset({Format.SAFETENSORS})
    install: ClassVar[str] = 'pip install "xinfer[transformers]"'
    requirements: ClassVar[tuple[Requirements, ...]] = (
        Requirements(
            packages=("torch==2.13.0", "transformers==5.19.0", "safetensors>=0.5", "av>=14"),
            imports=LIBRARIES,
            disk_mib=2_200,
        ),
    )
    preference: ClassVar[int] = 50
    Options: ClassVar[type[msgspec.Struct]] = WhisperOptions
    memory: ClassVar[EngineMemory] = EngineMemory(
        cpu_mib=560, dtype_options=("dtype",), cpu_dtype="float32", grows=True
    )

    _model: "WhisperModel"

    def __init__(self) -> None:
        self._worker: Worker | None = None

    @classmethod
    def available(cls) -> Available:
        """Whether torch, transformers and PyAV are installed."""
        missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
        if missing:
            return Available(False, f"{' and '.join(missing)} not installed: {cls.install}")
        return Available(True, version=importlib.metadata.version("transformers"), cpu_only=cpu_build())

    @classmethod
    def accepts(cls, spec: ModelSpec) -> Match:
        """Models of the Whisper family in safetensors."""
        if spec.kind is not Kind.SPEECH_RECOGNITION:
            return Match(False, f"it turns speech into text, and this is a model for {spec.kind}")
        if spec.family != "whisper":
            return Match(
                False, f"it runs models of the type whisper, and this is of the type {spec.family or 'unknown'}"
            )
        if spec.format not in cls.formats:
            return Match(False, f"it loads safetensors, and this model is in {spec.format}")
        return Match(True)

    async def load(self, spec: ModelSpec, options: dict[str, Any], grant: Grant, progress: Progress) -> None:
        """Read the weights, and listen to a second of silence.

        Raises:
            InvalidRequest: an option is wrong.
            LoadFailed: this is no Whisper, or the device is not there.
            Exception: whatever the library raises while it reads the files.
        """
        chosen = parse_options(WhisperOptions, options, self.name)
        self._model = await asyncio.to_thread(_load, spec, chosen, grant, progress)
        self._worker = Worker()
        progress("ready", 1.0)

    async def serve(self, call: Call) -> AsyncGenerator[Frame, None]:
        """Answer one request.

        Raises:
            XinferError: it is wrong, the recording cannot be decoded, or the engine failed.
        """
        request = parse_transcription(call.op, dict(call.headers).get("content-type", ""), call.body)
        refuse_others(request, self.name)
        assert self._worker is not None
        data = request.file.place.of(call.body)

        def open_(say: Callable[[str], None], is_over: Callable[[], bool]) -> "Listener":
            from xinfer.engines.whisper.listener import Listener  # noqa: PLC0415 - needs torch
            from xinfer.engines.whisper.recordings import Recording  # noqa: PLC0415 - needs PyAV

            return Listener(self._model, request, Recording(data), say, is_over)

        async with contextlib.aclosing(self._worker.transcribe(open_)) as news:
            async for frame in _streamed(news) if request.stream else _whole(news, request):
                yield frame

    def load_report(self) -> Load:
        """Recordings that run and wait."""
        return Load() if self._worker is None else self._worker.load()

    def failure(self) -> str:
        """None: an error ends the request that it is about."""
        return ""

    async def close(self) -> None:
        """End the thread."""
        if self._worker is not None:
            await self._worker.close()


def _load(spec: ModelSpec, options: WhisperOptions, grant: Grant, progress: Progress) -> "WhisperModel":
    progress("importing", 0.0)
    import numpy as np  # noqa: PLC0415 - only in the replica's process
    import torch  # noqa: PLC0415 - likewise

    from xinfer.engines.whisper.model import WhisperModel  # noqa: PLC0415 - likewise
    from xinfer.engines.whisper.recordings import RATE  # noqa: PLC0415 - likewise

    torch.set_num_threads(max(1, grant.threads))
    progress("reading weights", 0.3)
    model = WhisperModel(Path(spec.source), pick_device(options.device, grant), options.dtype)
    progress("warming up", 0.9)
    model.listen(np.zeros(RATE, np.float32)).first_impression()
    return model


async def _streamed(news: AsyncGenerator[str | Transcript, None]) -> AsyncGenerator[Frame, None]:
    begun = False
    async for found in news:
        if not begun:
            begun = True
            yield SSE_HEAD
        if isinstance(found, Transcript):
            yield done_event(found.text, duration_usage(found.duration))
        else:
            yield delta_event(found)


async def _whole(
    news: AsyncGenerator[str | Transcript, None], request: TranscriptionRequest
) -> AsyncGenerator[Frame, None]:
    async for found in news:
        if isinstance(found, Transcript):
            yield Head(200, ((b"content-type", MEDIA_TYPES[request.format]),))
            yield encode_transcript(found, request.format, translate=request.translate)
