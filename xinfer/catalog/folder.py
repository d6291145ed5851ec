"""The files of a model folder in the Hugging Face layout, and why a folder that is none cannot be served."""

import itertools
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from xinfer.catalog.shape import text_config
from xinfer.catalog.weights import safetensors_in
from xinfer.errors import InvalidRequest
from xinfer.generation.chat_template import template_text

ADAPTER = "adapter_config.json"
PIPELINE = "model_index.json"
PICKLED = ("*.bin", "*.pth", "*.pt", "*.ckpt")
FOREIGN = (("*.onnx", "ONNX"), ("*.h5", "TensorFlow"), ("*.msgpack", "Flax"), ("*.npz", "NumPy"))
"""Weights of other libraries, by what their names look like."""
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
CARD_FENCE, TASK_KEY, CARD_LINES = "---", "pipeline_tag:", 200
"""A model card begins with metadata between two fences."""
MOST_NAMES = 5
"""Of files that a refusal lists."""


class Module(msgspec.Struct, frozen=True):
    """An entry of a sentence-transformers ``modules.json``."""

    type: str
    path: str = ""

    @property
    def name(self) -> str:
        """The class, without its package."""
        return self.type.rpartition(".")[2]


class Folder:
    """The small files of a model folder, each read when it is first asked for.

    Raises:
        InvalidRequest: one of them is not what its name says; names it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object; empty where the file is missing. Some names come from files, so none may lead elsewhere."""
        file = self.path / name
        if ".." in file.parts or not file.is_relative_to(self.path):
            raise InvalidRequest(f"{self.path} names the file {name}, which is not in it", param="model_path")
        if not file.is_file():
            return {}
        try:
            return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
        except (msgspec.MsgspecError, OSError) as error:
            raise InvalidRequest(f"{file} is no JSON object: {error}", param="model_path") from error

    @cached_property
    def config(self) -> dict[str, Any]:
        """The ``config.json``."""
        return self.json("config.json")

    @cached_property
    def text(self) -> dict[str, Any]:
        """The part of it that is about the language model."""
        return text_config(self.config)

    @cached_property
    def tokenizer(self) -> dict[str, Any]:
        """The ``tokenizer_config.json``."""
        return self.json("tokenizer_config.json")

    @cached_property
    def preprocessor(self) -> dict[str, Any]:
        """What is done with images or sounds before the model gets them."""
        return self.json("preprocessor_config.json") or self.json("processor_config.json")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What sentence-transformers notes about the whole chain of modules."""
        return self.json("config_sentence_transformers.json")

    @cached_property
    def modules(self) -> tuple[Module, ...]:
        """The chain of modules of sentence-transformers; empty where there is none."""
        file = self.path / "modules.json"
        if not file.is_file():
            return ()
        try:
            return msgspec.json.decode(file.read_bytes(), type=tuple[Module, ...])
        except (msgspec.MsgspecError, OSError) as error:
            raise InvalidRequest(f"{file} cannot be read: {error}", param="model_path") from error

    @cached_property
    def template(self) -> str:
        """The chat template; of several, all of them together."""
        named = self.tokenizer.get("chat_template")
        if isinstance(named, list) and not (self.path / "chat_template.jinja").is_file():
            return "\n".join(str(entry.get("template", "")) for entry in named if isinstance(entry, dict))
        try:
            return template_text(self.path)
        except (ValueError, OSError) as error:
            raise InvalidRequest(
                f"the chat template of {self.path} cannot be read: {error}", param="model_path"
            ) from error

    @cached_property
    def task(self) -> str:
        """What the model card says that it is for, in the words of Hugging Face; empty: it does not."""
        card = self.path / "README.md"
        if not card.is_file():
            return ""
        with card.open(encoding="utf-8", errors="replace") as lines:
            if next(lines, "").strip() != CARD_FENCE:
                return ""
            head = itertools.takewhile(lambda line: line.strip() != CARD_FENCE, itertools.islice(lines, CARD_LINES))
            found = (line.removeprefix(TASK_KEY).strip(" \n'\"") for line in head if line.startswith(TASK_KEY))
            return next(found, "")

    @cached_property
    def architectures(self) -> tuple[str, ...]:
        """The classes that the model was saved from."""
        found = self.config.get("architectures")
        return tuple(str(name) for name in found) if isinstance(found, list) else ()

    @property
    def has_remote_code(self) -> bool:
        """Whether it names Python files of its own that a library is to run."""
        foreign = any(not module.type.startswith("sentence_transformers.") for module in self.modules)
        return bool(self.config.get("auto_map")) or foreign

    def safetensors(self) -> list[Path]:
        """The files that hold the weights.

        Raises:
            InvalidRequest: there are none; says what there is instead, and what would help.
        """
        files = safetensors_in(self.path)
        if not files:
            raise InvalidRequest(f"{self.path} has {_instead_of_weights(self.path)}", param="model_path")
        return files


def refused_adapter(folder: Folder) -> InvalidRequest:
    """The refusal of a folder that holds an adapter only."""
    config = folder.json(ADAPTER)
    kind, base = str(config.get("peft_type") or "LORA"), str(config.get("base_model_name_or_path") or "")
    if kind.upper() != "LORA":
        return InvalidRequest(
            f"{folder.path} is an adapter of the type {kind}, which no engine here loads; merge it into its base model",
            param="model_path",
        )
    return InvalidRequest(
        f"{folder.path} is a LoRA adapter{f' for {base}' if base else ''}, which is no model by itself; launch its "
        f"base model with it: xinfer launch {base or 'BASE'} --lora-modules {folder.path.name}={folder.path}",
        param="model_path",
    )


def refused_folder(path: Path) -> InvalidRequest:
    """The refusal of a folder that has neither a ``config.json`` nor a GGUF file: what it is, and what would help."""
    return InvalidRequest(f"{path} holds no config.json and no GGUF file{_what_instead(path)}", param="model_path")


def _what_instead(path: Path) -> str:
    if not any(path.iterdir()):
        return ": it is empty; a model folder has a config.json and *.safetensors files"
    nested = path.glob("snapshots/*/config.json") if (path / "snapshots").is_dir() else path.glob("*/config.json")
    folders = sorted(str(file.parent.relative_to(path)) for file in nested)
    if folders:
        return f", but there is a model in a folder of it; launch that one: {_listed(folders)}"
    if (path / "params.json").is_file():
        return ": it is in the publisher's own layout (params.json); fetch the files for transformers as well"
    if any(path.glob("*.safetensors")):
        return ", only weights; fetch the config.json and the tokenizer from where they were published"
    if any((path / name).is_file() for name in TOKENIZERS):
        return ": it is a tokenizer without a model; download the whole model"
    return f", but {_instead_of_weights(path)}"


def _instead_of_weights(path: Path) -> str:
    if any(file for pattern in PICKLED for file in path.glob(pattern)):
        return (
            "only pickled weights, and none of those that are read (pytorch_model.bin, or the files that "
            "pytorch_model.bin.index.json names); convert them to safetensors"
        )
    for pattern, library in FOREIGN:
        if any(path.glob(pattern)) or any(path.glob(f"*/{pattern}")):
            return f"only weights for {library}, which no engine here loads; fetch the *.safetensors or *.gguf files"
    return "no *.safetensors files; download it again, with its weights"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
