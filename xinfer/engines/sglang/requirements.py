"""What an environment for SGLang holds. One release, on two kinds of machines."""

from xinfer.engines.base import Requirements

VERSION = "0.5.23"

# What SGLang asks for cannot be had without CUDA: its kernels, and builds of other packages that are linked to it. On a
# machine without a card it is installed as it is, beside that part of its needs that is plain Python or runs anywhere.
NEEDED_WITHOUT_CUDA = (
    "aiohttp",
    "apache-tvm-ffi==0.1.11",
    "cffi",
    "compressed-tensors",
    "dill",
    "einops",
    "gguf",
    "interegular",
    "IPython",
    "jsonschema",
    "llguidance",
    "openai",
    "orjson",
    "partial_json_parser",
    "pillow",
    "pybase64",
    "python-multipart",
    "pyzmq",
    "scipy",
    "sentencepiece",
    "setproctitle",
    "soundfile==0.13.1",
    "tiktoken",
    "tokenizers==0.23.2",
    "torch==2.13.0",
    "transformers==5.19.0",
    "triton",
    "watchfiles",
    "xxhash",
    "zstandard",
)

REQUIREMENTS = (
    Requirements(packages=(f"sglang=={VERSION}",), imports=("sglang",), accelerator="cuda", disk_mib=14_000),
    Requirements(
        packages=NEEDED_WITHOUT_CUDA,
        without_dependencies=(
            f"sglang=={VERSION}",
            "openai-harmony",
            "torchvision==0.28.0",
            "xgrammar==0.2.7",
        ),
        # Not sglang itself: that imports its kernels, which whoever serves without a card adds in a build of their own.
        imports=("torch", "transformers", "xgrammar"),
        accelerator="cpu",
        disk_mib=3_500,
    ),
)
