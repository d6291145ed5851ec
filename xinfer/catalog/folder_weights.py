"""The weights of a model folder, whichever files they are in."""

from pathlib import Path
from typing import NamedTuple

from xinfer.catalog.folder import Folder
from xinfer.catalog.pickled import pickled_in, pickled_tensors, require_harmless
from xinfer.catalog.quantized import Stored, stored
from xinfer.catalog.weights import Tensors, read_tensors, safetensors_in, written_for
from xinfer.spec import Format


class FolderWeights(NamedTuple):
    """The files that an engine would load, how they are stored, and what they hold."""

    files: list[Path]
    stored: Stored
    tensors: Tensors


def weights_of(folder: Folder) -> FolderWeights:
    """Look into them. Safetensors go before pickles, as with every library.

    Raises:
        InvalidRequest: there are none, they are damaged, or a pickle would run code; says which and what would help.
    """
    modelopt = folder.json("hf_quant_config.json")
    pickled = [] if safetensors_in(folder.path) else pickled_in(folder.path)
    if not pickled:
        files = folder.safetensors()
        how = stored(folder.config, modelopt, written_for(files))
        return FolderWeights(files, how, read_tensors(files, how.bits))
    for file in pickled:
        require_harmless(file)
    how = stored(folder.config, modelopt, "")._replace(format=Format.PICKLE)
    dtype = str(folder.text.get("dtype") or folder.text.get("torch_dtype") or "")
    return FolderWeights(pickled, how, pickled_tensors(pickled, dtype))
