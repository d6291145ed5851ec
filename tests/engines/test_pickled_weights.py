"""Weights in PyTorch's older files: read like those in safetensors, and never anything but weights."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("sentence_transformers")

from fakes.models import pickled, write_cross_encoder, write_decoder, write_embedder, write_malicious  # noqa: E402

from xinfer import plugins  # noqa: E402
from xinfer.catalog import introspect  # noqa: E402
from xinfer.catalog.pickled import require_harmless  # noqa: E402
from xinfer.devices import Grant, Lease  # noqa: E402
from xinfer.engines.base import Call  # noqa: E402
from xinfer.engines.sentence_transformers.native import read_weights  # noqa: E402
from xinfer.errors import InvalidRequest  # noqa: E402
from xinfer.ops import Op  # noqa: E402
from xinfer.spec import Format  # noqa: E402

pytestmark = pytest.mark.engine("sentence_transformers")

GRANT = Grant(lease=Lease(replica_id="r", generation=1, slices=()))
EMBED = (Op.EMBEDDING, {"input": ["the goose", "a lake"]})
RERANK = (Op.RERANK, {"query": "the goose", "documents": ["a lake", "quiet evening"]})
COMPLETE = (Op.COMPLETION, {"prompt": "the goose", "max_tokens": 5, "temperature": 0, "logprobs": 1})
MODELS = {
    "encoder": (write_embedder, "sentence_transformers", EMBED, {}),
    "encoder of the library": (write_embedder, "sentence_transformers", EMBED, {"implementation": "library"}),
    "reranker": (write_cross_encoder, "sentence_transformers", RERANK, {}),
    "language model": (lambda folder: write_decoder(folder, "qwen3"), "transformers", COMPLETE, {}),
}


def answer(folder: Path, engine: str, asked: tuple[Op, dict[str, Any]], options: dict[str, Any]) -> Any:
    """What a model says, without what is different each time."""

    async def main() -> Any:
        made = plugins.engines()[engine]()
        await made.load(introspect(str(folder)), options, GRANT, lambda _stage, _fraction: None)
        try:
            op, body = asked
            call = Call("id", op, json.dumps({"model": "m", **body}).encode(), "m")
            return json.loads(
                [frame async for frame in made.serve(call)][-1], parse_float=lambda number: round(float(number), 5)
            )
        finally:
            await made.close()

    found = asyncio.run(main())
    return found.get("data") or found.get("results") or found["choices"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", MODELS)
def test_it_answers_as_with_safetensors(tmp_path, name):
    write, engine, asked, options = MODELS[name]
    plain = write(tmp_path / "plain")
    other = pickled(shutil.copytree(plain, tmp_path / "other"))
    assert introspect(str(other)).format is Format.PICKLE
    assert plugins.engines()[engine].accepts(introspect(str(other))).ok
    assert answer(other, engine, asked, options) == answer(plain, engine, asked, options)


def test_several_files(tmp_path):
    folder = pickled(write_embedder(tmp_path / "model"))
    tensors = list(torch.load(folder / "pytorch_model.bin", weights_only=True).items())
    (folder / "pytorch_model.bin").unlink()
    names = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    parts = dict(zip(names, (dict(tensors[:9]), dict(tensors[9:])), strict=True))
    for name, part in parts.items():
        torch.save(part, folder / name)
    index = {"weight_map": {tensor: name for name, part in parts.items() for tensor in part}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert len(answer(folder, "sentence_transformers", EMBED, {})) == 2
    (folder / names[1]).unlink()
    with pytest.raises(InvalidRequest, match=r"names pytorch_model-00002-of-00002\.bin, which is missing"):
        introspect(str(folder))


def test_files_of_before_2020(tmp_path):
    file = tmp_path / "old.bin"
    torch.save({"a": torch.ones(3)}, file, _use_new_zipfile_serialization=False)
    require_harmless(file)


def test_code_is_not_run(tmp_path):
    """Neither by the look at it, nor by an engine that gets it all the same."""
    folder = write_malicious(tmp_path / "bad")
    with pytest.raises(InvalidRequest, match=r"calls \w+\.system"):
        require_harmless(folder / "pytorch_model.bin")
    with pytest.raises(Exception, match="Weights only load failed"):
        read_weights(folder, torch.device("cpu"), None)
    assert not (folder / "was-run").exists()
