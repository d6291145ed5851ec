"""What the files of a model folder say about how its answers are made: where they end, and how to sample. Pure."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xinfer.errors import LoadFailed

_RECOMMENDED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file.

    Raises:
        LoadFailed: it is no JSON.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LoadFailed(f"{path} is not valid JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def stop_ids(folder: Path, id_of: Callable[[str], int | None]) -> frozenset[int]:
    """Every token that one of the model's files calls an end.

    Args:
        folder: the model's.
        id_of: the id of a token as it is written in those files.
    """
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        ids = read_json(folder / name).get("eos_token_id")
        found.update([ids] if isinstance(ids, int) else ids or [])
    token = read_json(folder / "tokenizer_config.json").get("eos_token")
    written = token.get("content") if isinstance(token, dict) else token
    index = id_of(written) if isinstance(written, str) else None
    return frozenset(found if index is None else found | {index})


def recommended_sampling(folder: Path) -> dict[str, float]:
    """Sampling defaults of the model's authors. Without sampling in them, the default is greedy."""
    generation = read_json(folder / "generation_config.json")
    if generation.get("do_sample") is False:
        return {"temperature": 0.0}
    return {name: float(generation[name]) for name in _RECOMMENDED if generation.get(name) is not None}
