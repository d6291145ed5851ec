"""What the files of an embedding model say about its vectors."""

from xinfer.catalog.folder import Folder
from xinfer.generation.context import KEYS, least

DIMENSIONS = ("out_features", "word_embedding_dimension", "embedding_dimension")
"""How modules say how long their vectors are."""
POOLING_FLAG = "pooling_mode_"
"""Before 2026, a pooling module had a switch for each mode; now it has a word, or a list of them."""


def longest_input(folder: Folder) -> int | None:
    """Tokens: the smallest of what the weights, the chain of modules and the tokenizer allow.

    Position ids of RoBERTa types start at 2, so only the tokenizer knows how much text fits.
    """
    limits = [folder.text.get(key) for key in KEYS]
    limits.append(folder.json("sentence_bert_config.json").get("max_seq_length"))
    limits.append(folder.tokenizer.get("model_max_length"))
    return least(limits)


def dimensions(folder: Folder) -> int | None:
    """The length of a vector: of the last module that changes it, else the hidden size."""
    for module in reversed(folder.modules):
        found = folder.json(f"{module.path}/config.json") if module.path else {}
        for key in DIMENSIONS:
            if isinstance(found.get(key), int):
                return int(found[key])
    text = folder.text
    hidden = text.get("hidden_size") or text.get("dim") or text.get("d_model")
    return int(hidden) if isinstance(hidden, int) else None


def pooling(folder: Folder) -> str:
    """How the vectors of the tokens become one; several ways joined by "+"; empty: its files do not say."""
    for module in folder.modules:
        if module.name != "Pooling":
            continue
        found = folder.json(f"{module.path}/config.json")
        said = found.get("pooling_mode")
        flags = [key.removeprefix(POOLING_FLAG) for key, on in found.items() if key.startswith(POOLING_FLAG) and on]
        words = [said] if isinstance(said, str) else map(str, said) if isinstance(said, list) else flags
        return "+".join(word.removesuffix("_tokens").removesuffix("_token") for word in words) or "mean"
    return ""


def normalized(folder: Folder) -> bool | None:
    """Whether a vector has unit length; None: there is no chain of modules that would say so."""
    return any(module.name == "Normalize" for module in folder.modules) if folder.modules else None


def matryoshka_dims(folder: Folder) -> tuple[int, ...]:
    """The lengths to which vectors may be cut."""
    found = folder.config.get("matryoshka_dimensions")
    return tuple(item for item in found if isinstance(item, int)) if isinstance(found, list) else ()
