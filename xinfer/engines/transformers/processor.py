"""The library's processor of a model that sees: images to tensors, and to the text that stands for them."""

import json
from pathlib import Path
from typing import Any

import transformers

from xinfer.errors import LoadFailed

_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")


def load_processor(folder: Path, config: Any) -> Any:
    """Read it, without the parts for videos and sound: they want packages that nothing here needs.

    Args:
        folder: the model's.
        config: of the model.

    Raises:
        LoadFailed: there is none, or it cannot be read; says why.
    """
    kind = _processor_class(folder, config)
    if kind is None:
        raise LoadFailed(f"{folder} does not say which processor prepares its images, and the library knows none")
    seeing: Any = type(kind.__name__, (_WithoutVideos, kind), {})
    try:
        settings, _ = kind.get_processor_dict(folder, local_files_only=True)
        parts = [_part(folder, name) for name in kind.get_attributes()]
        return seeing.from_args_and_dict(parts, settings)
    except (ImportError, OSError, TypeError, ValueError, AttributeError) as error:
        raise LoadFailed(f"the processor of its images cannot be made: {error}") from error


class _WithoutVideos:
    """What processors are made with: parts that are left out are right."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """See the library."""
        if argument is None:
            return type(None)
        return super().check_argument_for_proper_class(argument_name, argument)  # type: ignore[misc]  # the library's


def _part(folder: Path, name: str) -> Any:
    if name.endswith("tokenizer"):
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if name == "image_processor":
        return transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    return None


def _processor_class(folder: Path, config: Any) -> Any:
    """As its files say, else as the library has it for the type of the model."""
    for name in _FILES:
        file = folder / name
        named = json.loads(file.read_text(encoding="utf-8")).get("processor_class") if file.is_file() else None
        if named and hasattr(transformers, named):
            return getattr(transformers, named)
    return transformers.PROCESSOR_MAPPING.get(type(config), None)
