"""A model in the words that Xinference's clients know."""

from typing import Any

from xinfer.spec import ModelSpec


def described(spec: ModelSpec) -> dict[str, Any]:
    """What a model is, as JSON. Sizes in billions of parameters, lengths in tokens."""
    return {
        "model_name": spec.name,
        "model_type": spec.kind.value,
        "model_family": spec.family or spec.name,
        "model_format": spec.format.value,
        "quantization": spec.quantization,
        "model_size_in_billions": spec.size_in_billions,
        "activated_size_in_billions": spec.active_size_in_billions,
        "model_ability": list(spec.abilities),
        "context_length": spec.context_length,
        "dimensions": spec.dimensions,
        "matryoshka_dimensions": list(spec.matryoshka_dims),
        "pooling": spec.pooling,
        "normalized": spec.normalized,
        "has_chat_template": spec.has_chat_template,
        "tool_parser": spec.tool_parser,
        "reasoning_parser": spec.reasoning_parser,
        "remote_code": spec.remote_code,
    }
