"""A ModelSpec from a folder in the layout of diffusers: one model per sub-folder, and an index of them."""

from collections.abc import Iterable
from pathlib import Path

from xinfer.catalog.folder import PIPELINE, Folder
from xinfer.catalog.weights import read_tensors, size_mib
from xinfer.errors import InvalidRequest
from xinfer.ops import Kind
from xinfer.spec import Format, ModelSpec

ABILITIES = (("Inpaint", "inpainting"), ("Img2Img", "image2image"), ("Edit", "image2image"))
"""By a part of the pipeline's class, what it is for; others make images of text."""
HALF_PRECISION = ".fp16."
"""In the names of files that hold the same weights once more."""


def read_pipeline(path: Path, source: str, name: str) -> ModelSpec:
    """What a folder with a ``model_index.json`` holds.

    Raises:
        InvalidRequest: it makes no images, or has no weights in safetensors.
    """
    made_by = str(Folder(path).json(PIPELINE).get("_class_name", ""))
    if "Video" in made_by or "Audio" in made_by:
        raise InvalidRequest(
            f"{path} is a {made_by}; of pipelines, those for images are known here", param="model_path"
        )
    weights = _once(sorted(path.glob("*/*.safetensors")))
    if not weights:
        raise InvalidRequest(
            f"{path} is a {made_by} without *.safetensors files in its folders; download it again, with its weights",
            param="model_path",
        )
    tensors = read_tensors(weights)
    return ModelSpec(
        name=name or path.name,
        kind=Kind.IMAGE,
        source=source,
        format=Format.SAFETENSORS,
        family=made_by,
        size_in_billions=float(f"{tensors.parameters / 1e9:.3g}"),
        abilities=(next((ability for part, ability in ABILITIES if part in made_by), "text2image"),),
        weights_mib=size_mib(weights),
    )


def _once(files: Iterable[Path]) -> list[Path]:
    """Each file, but of two with the same weights the one that is loaded when nothing is said."""
    found = set(files)
    return sorted(
        file for file in found if file.with_name(file.name.replace(HALF_PRECISION, ".")) not in found - {file}
    )
