"""How many bytes the weights of a model take in a format and quantization, where nobody has its files yet. Pure.

A quantization of GGUF mixes types, so its bits for one weight are a mean over a whole model: those of llama.cpp's own
table for a Llama 3.1 of 8B (``tools/quantize/README.md`` there). The methods for safetensors leave the embeddings as
they were and quantise the rest, whose scales and zero points count. Good to some percent; read files are exact.
"""

from collections.abc import Mapping

from xinfer.spec import Format, ModelShape

PLAIN: Mapping[str, tuple[str, int]] = {
    "": ("BF16", 2),
    "bfloat16": ("BF16", 2),
    "float16": ("F16", 2),
    "float32": ("F32", 4),
}
"""By the type that a model computes in, that of its tensors and the bytes of one weight."""

GGUF_BITS: Mapping[str, float] = {
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "Q8_0": 8.5,
    "Q6_K": 6.57,
    "Q5_K_M": 5.71,
    "Q5_K_S": 5.57,
    "Q5_1": 6.04,
    "Q5_0": 5.56,
    "Q4_1": 5.12,
    "Q4_K_M": 4.9,
    "Q4_K_S": 4.67,
    "Q4_0": 4.67,
    "IQ4_NL": 4.69,
    "IQ4_XS": 4.46,
    "Q3_K_L": 4.3,
    "Q3_K_M": 4.0,
    "Q3_K_S": 3.65,
    "IQ3_M": 3.77,
    "IQ3_XXS": 3.26,
    "Q2_K": 3.16,
    "IQ2_M": 2.93,
    "MXFP4": 4.5,
}
MLX_BITS: Mapping[str, float] = {
    "bf16": 16,
    "fp16": 16,
    "8bit": 8.5,
    "6bit": 6.5,
    "5bit": 5.5,
    "4bit": 4.5,
    "3bit": 3.5,
}
"""A group of 64 weights has a scale and a bias of 16 bits each."""
SAFETENSORS_BITS: Mapping[str, tuple[str, float]] = {
    "fp8": ("F8_E4M3", 8.0),
    "gptq-int8": ("I32", 8.2),
    "gptq-int4": ("I32", 4.2),
    "awq-int4": ("I32", 4.2),
    "mxfp4": ("U8", 4.25),
}
"""Type and bits of what is quantised: mostly a scale of 16 bits, and a zero point, for 128 weights."""


def weight_bytes(
    shape: ModelShape, weights_format: Format, quantization: str, *, embedding_tables: int
) -> dict[str, int]:
    """Bytes of the tensors by their type, as ``ModelShape.weight_bytes``.

    ``embedding_tables`` says how often the vocabulary is in the weights: once where input and output share it, else
    twice.

    Raises:
        ValueError: nobody knows how large such weights are.
    """
    stored, size = PLAIN[shape.dtype]
    if weights_format is Format.NONE:
        return {}
    if weights_format in (Format.GGUF, Format.MLX):
        bits = (GGUF_BITS if weights_format is Format.GGUF else MLX_BITS).get(quantization)
        if bits is None:
            raise ValueError(f"the size of {weights_format} weights in {quantization} is unknown")
        return {quantization: int(shape.parameters * bits / 8)}
    if quantization == "none":
        return {stored: shape.parameters * size}
    if quantization not in SAFETENSORS_BITS:
        raise ValueError(f"the size of {weights_format} weights in {quantization} is unknown")
    kind, bits = SAFETENSORS_BITS[quantization]
    embeddings = min(shape.parameters, embedding_tables * shape.vocabulary * shape.hidden)
    return {kind: int((shape.parameters - embeddings) * bits / 8), stored: embeddings * size}
