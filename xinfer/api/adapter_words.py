"""LoRA adapters as users name them: in vLLM's words, in Xinference's, and one at a time."""

from pydantic import BaseModel, ConfigDict, Field

from xinfer.errors import InvalidRequest, UnsupportedParameter
from xinfer.spec import Adapter


class LoraModule(BaseModel):
    """One adapter: the name that clients use, and its folder on the workers."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1)
    path: str = Field(min_length=1)


LoraModules = list[str | LoraModule] | dict[str, str] | str
"""``["NAME=PATH"]``, ``[{"name": ..., "path": ...}]`` or ``{"NAME": "PATH"}``."""


class LoraEntry(BaseModel):
    """One adapter of Xinference's ``lora_list``."""

    model_config = ConfigDict(extra="forbid")

    lora_name: str = Field(min_length=1)
    local_path: str = Field(min_length=1)
    lora_scale: float = 1.0


class PeftModelConfig(BaseModel):
    """Xinference's ``peft_model_config``; what it has for image models is not for the models here."""

    model_config = ConfigDict(extra="forbid")

    lora_list: list[LoraEntry] = Field(default_factory=list)
    image_lora_load_kwargs: dict[str, object] | None = None
    image_lora_fuse_kwargs: dict[str, object] | None = None


def adapters_of(modules: LoraModules | None, config: PeftModelConfig | None) -> tuple[Adapter, ...]:
    """The adapters that a launch names, in their order.

    Raises:
        InvalidRequest: a word has no name or no path, or says what cannot be had.
    """
    return (*_of_modules(modules), *_of_config(config))


def _of_modules(modules: LoraModules | None) -> list[Adapter]:
    match modules:
        case None:
            return []
        case str():
            return [_parsed(modules)]
        case dict():
            return [Adapter(name=name, path=path) for name, path in modules.items()]
        case list():
            return [
                _parsed(module) if isinstance(module, str) else Adapter(name=module.name, path=module.path)
                for module in modules
            ]


def _parsed(word: str) -> Adapter:
    name, _, path = word.partition("=")
    if not name or not path:
        raise InvalidRequest(f"an adapter is NAME=PATH, not {word!r}", param="lora_modules")
    return Adapter(name=name, path=path)


def _of_config(config: PeftModelConfig | None) -> list[Adapter]:
    if config is None:
        return []
    if config.image_lora_load_kwargs or config.image_lora_fuse_kwargs:
        raise UnsupportedParameter("adapters of image models are not supported", param="peft_model_config")
    for entry in config.lora_list:
        if entry.lora_scale != 1.0:
            raise UnsupportedParameter(
                f"lora_scale {entry.lora_scale:g} is not supported; scale the adapter's lora_alpha instead",
                param="peft_model_config",
            )
    return [Adapter(name=entry.lora_name, path=entry.local_path) for entry in config.lora_list]
