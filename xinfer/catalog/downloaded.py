"""A ModelSpec from the weights of a repository that were downloaded to this machine."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import msgspec

from xinfer.catalog.hub_cache import CachedRepository, cache_root
from xinfer.catalog.introspect import introspect, shape_of
from xinfer.catalog.repository import PICKLED, RemoteFile
from xinfer.catalog.sources import HubSource
from xinfer.errors import InvalidRequest
from xinfer.ops import Kind
from xinfer.settings import Settings
from xinfer.spec import Format, ModelSpec


def downloaded_spec(sources: Iterable[HubSource], kinds: Collection[Kind], settings: Settings) -> ModelSpec | None:
    """What the first of these repositories holds that is here with all of its weights; None: none is.

    ``kinds`` as for ``introspect``.

    Raises:
        InvalidRequest: it is here, and is nothing that can be served.
    """
    for source in sources:
        repository = CachedRepository(cache_root(settings, source.hub), source)
        _, files = repository.found()
        weights_format = format_of(source, files)
        try:
            commit, chosen = repository.complete(weights_format, source.files)
        except InvalidRequest:
            continue
        folder = repository.snapshot(commit)
        path = folder / chosen[0].path if weights_format is Format.GGUF else folder
        return spec_at(path, source, kinds)
    return None


def format_of(source: HubSource, files: Sequence[RemoteFile]) -> Format:
    """The format of the weights that are meant by a source, where nobody says it."""
    suffixes = {Path(file.path).suffix for file in files}
    if not suffixes & {".safetensors", ".gguf"} and any(PICKLED.fullmatch(file.path) for file in files):
        return Format.PICKLE
    gguf_only = ".gguf" in suffixes and ".safetensors" not in suffixes
    return Format.GGUF if gguf_only or source.files.endswith(".gguf") else Format.SAFETENSORS


def spec_at(path: Path, source: HubSource, kinds: Collection[Kind] = ()) -> ModelSpec:
    """What the files of a repository say, which are at a path for the moment: the path is in none of its words.

    Raises:
        InvalidRequest: it is nothing that can be served.
    """
    try:
        spec = introspect(str(path), source.title, kinds)
    except InvalidRequest as error:
        raise InvalidRequest(error.message.replace(str(path), str(source)), param=error.param) from None
    return msgspec.structs.replace(spec, source=str(source), shape=shape_of(spec))
