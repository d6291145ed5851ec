"""Custom models as Xinference's users describe them, in the words of our catalog. Pure.

What such a document says about a model that its own files say as well (chat template, stop words) is read from the
files; the notes of a translation name what that is of a document.
"""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from xinfer.catalog.selection import FORMAT_WORDS, parsed_size
from xinfer.errors import InvalidRequest
from xinfer.spec import Format

Document = Mapping[str, Any]

IN_THE_FILES = (
    "chat_template",
    "stop",
    "stop_token_ids",
    "reasoning_start_tag",
    "reasoning_end_tag",
    "tool_parser",
    "architectures",
    "virtualenv",
)
"""Fields that are read from the model's own files, or chosen by the engine."""
UNUSED = {
    "version",
    "model_lang",
    "language",
    "updated_at",
    "featured",
    "is_builtin",
    "model_type",
    "type",
    "model_hub",
}
"""Fields that change nothing."""
READ = {
    "model_name",
    "model_description",
    "model_ability",
    "model_family",
    "context_length",
    "max_tokens",
    "dimensions",
    "model_specs",
    "model_id",
    "model_uri",
    "model_revision",
    "model_format",
    "quantization",
    "quantizations",
    "model_size_in_billions",
    "model_src",
}
READ_OF_SPECS = {
    "model_format",
    "model_size_in_billions",
    "activated_size_in_billions",
    "quantization",
    "quantizations",
    "model_id",
    "model_uri",
    "model_revision",
    "model_hub",
    "model_file_name_template",
    "model_src",
}
HUBS = ("huggingface", "modelscope")
KINDS = {"embed": "embedding", "rerank": "rerank", "vision": "vision-language"}
"""What an ability makes of a model; any other is a language model."""


def is_foreign(document: Document) -> bool:
    """Whether a document is in the words of Xinference."""
    return "model_name" in document


def translated(document: Document) -> tuple[dict[str, Any], str, tuple[str, ...]]:
    """The entry of a catalog family that means the same, the family that it names, and the notes.

    Raises:
        InvalidRequest: a field is wrong, or means something that cannot be had here; names it.
    """
    _require_known(document, READ | UNUSED | set(IN_THE_FILES), "")
    kind = _kind(document)
    entry = {
        "name": _text(document, "model_name"),
        "kind": kind,
        "description": _text(document, "model_description"),
        "abilities": document.get("model_ability") or {"embedding": ["embed"], "rerank": ["rerank"]}.get(kind, []),
        "context_length": document.get("context_length") or document.get("max_tokens"),
        "dimensions": document.get("dimensions"),
        "variants": [variant for number, spec in enumerate(_specs(document)) for variant in _variants(spec, number)],
    }
    notes = tuple(
        f"{field} is taken from the model's own files, or set at the launch"
        for field in IN_THE_FILES
        if document.get(field)
    )
    return entry, _text(document, "model_family"), notes


def _kind(document: Document) -> str:
    if document.get("model_type"):
        return str(document["model_type"])
    abilities = document.get("model_ability") or ()
    if not isinstance(abilities, list | tuple):
        raise InvalidRequest("model_ability: it is a list of words", param="model_ability")
    for ability, kind in KINDS.items():
        if ability in abilities:
            return kind
    if abilities or "context_length" in document:
        return "LLM"
    return "embedding" if "dimensions" in document else "rerank"


def _specs(document: Document) -> list[Document]:
    """The weights; a document may have those of one kind beside its own fields."""
    specs = document.get("model_specs")
    if specs is None:
        return [{name: value for name, value in document.items() if name in READ_OF_SPECS}]
    if not isinstance(specs, list) or not all(isinstance(spec, dict) for spec in specs) or not specs:
        raise InvalidRequest("model_specs: it is a list of objects, one for each set of weights", param="model_specs")
    return specs


def _variants(spec: Document, number: int) -> Iterator[dict[str, Any]]:
    place = f"model_specs[{number}]"
    _require_known(spec, READ_OF_SPECS, f"{place}.")
    places = spec.get("model_src") or {str(spec.get("model_hub") or HUBS[0]): spec}
    if not isinstance(places, dict):
        raise InvalidRequest(
            f"{place}.model_src: it is an object with a field for each hub", param=f"{place}.model_src"
        )
    size = spec.get("model_size_in_billions")
    sizes = {} if size is None else {"size_in_billions": parsed_size(size)[0]}
    for hub, there in places.items():
        if hub not in HUBS:
            raise InvalidRequest(
                f"{place}: there is no hub {hub!r} here; there are: {', '.join(HUBS)}", param=f"{place}.model_hub"
            )
        for quantization in _quantizations(there, spec):
            yield _variant(spec, there, hub, quantization, place) | sizes


def _variant(spec: Document, there: Document, hub: str, quantization: str, place: str) -> dict[str, Any]:
    word = str(spec.get("model_format") or "pytorch").lower()
    formats, method = FORMAT_WORDS.get(word, ((word,), ""))
    if method and quantization.lower() in ("none", method):
        quantization_here = method
    else:
        quantization_here = f"{method}-{quantization.lower()}" if method else quantization
    found = {"format": str(formats[0]), "quantization": quantization_here}
    files = _text(there, "model_file_name_template") or _text(spec, "model_file_name_template")
    uri = _text(there, "model_uri") or _text(spec, "model_uri")
    if uri:
        return found | {"source": _path(uri, _filled(files, quantization), found["format"], place)}
    model_id = _text(there, "model_id")
    if not model_id:
        raise InvalidRequest(
            f"{place} does not say where its weights are: give model_uri (a path on the workers) or model_id",
            param=f"{place}.model_uri",
        )
    return found | {
        hub: _filled(model_id, quantization),
        "revision": _text(there, "model_revision"),
        "files": _filled(files, quantization) if found["format"] == Format.GGUF else "",
    }


def _path(uri: str, file: str, weights_format: str, place: str) -> str:
    scheme, separator, path = uri.partition("://")
    if not separator:
        path = uri
    elif scheme != "file":
        raise InvalidRequest(
            f"{place}.model_uri: {scheme}:// is not read here; give a path on the workers (file:///data/model)",
            param=f"{place}.model_uri",
        )
    whole = path if not file or weights_format != Format.GGUF or path.endswith(".gguf") else PurePosixPath(path) / file
    return str(whole)


def _quantizations(there: Document, spec: Document) -> list[str]:
    found = there.get("quantizations") or spec.get("quantizations") or [there.get("quantization") or "none"]
    if not isinstance(found, list):
        raise InvalidRequest("quantizations: it is a list of words", param="quantizations")
    return [str(word) if str(word).lower() != "none" else "none" for word in found]


def _filled(text: str, quantization: str) -> str:
    try:
        return text.format(quantization=quantization)
    except (KeyError, IndexError, ValueError) as error:
        raise InvalidRequest(f"{text!r} has a placeholder that there is not: {error}", param="model_specs") from None


def _text(document: Document, field: str) -> str:
    found = document.get(field)
    if found is not None and not isinstance(found, str):
        raise InvalidRequest(f"{field}: it is a text, not {found!r}", param=field)
    return found or ""


def _require_known(document: Document, known: set[str], prefix: str) -> None:
    for field, value in document.items():
        if field not in known and value not in (None, "", [], {}):
            raise InvalidRequest(f"{prefix}{field}: there is no such field for models here", param=f"{prefix}{field}")
