import pytest
from hypothesis import given
from hypothesis import strategies as st

from xinfer.catalog.repository import RemoteFile, index_of, needed, unsafe
from xinfer.errors import InvalidRequest
from xinfer.protocol import FileProgress
from xinfer.spec import Format
from xinfer.worker.weights.progress import Progress, amount

SHA = "0" * 64


def listed(*paths: str, size: int = 1) -> list[RemoteFile]:
    return [RemoteFile(path, size, sha256=SHA) for path in paths]


def names(files, weights_format, pattern="", indexed=None):
    return [file.path for file in needed(listed(*files), weights_format, pattern, indexed)]


CLUTTER = ("pytorch_model.bin", "onnx/model.onnx", "logo.png", "README.md", "original/config.json", "tf_model.h5")


def test_safetensors_come_with_what_is_small_and_nothing_else():
    files = ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "merges.txt", *CLUTTER)
    assert names(files, Format.SAFETENSORS) == [
        "chat_template.jinja",
        "config.json",
        "merges.txt",
        "tokenizer.json",
        "model.safetensors",
    ]


def test_the_same_weights_in_the_publishers_own_layout_are_left_out():
    files = ("consolidated.safetensors", "a-1.safetensors", "a-2.safetensors", "model.safetensors.index.json")
    indexed = frozenset({"a-1.safetensors", "a-2.safetensors"})
    assert "consolidated.safetensors" not in names(files, Format.SAFETENSORS, indexed=indexed)
    assert index_of(listed(*files), Format.SAFETENSORS).path == "model.safetensors.index.json"
    assert index_of(listed(*files), Format.GGUF) is None
    with pytest.raises(InvalidRequest, match=r"names a-3\.safetensors"):
        names(files, Format.SAFETENSORS, indexed=indexed | {"a-3.safetensors"})


def test_the_parts_of_a_sentence_transformers_model_belong_to_it():
    files = ("model.safetensors", "modules.json", "1_Pooling/config.json", "2_Dense/model.safetensors", *CLUTTER)
    assert set(names(files, Format.SAFETENSORS)) == set(files) - set(CLUTTER)


def test_a_pipeline_is_all_of_its_folders():
    files = ("model_index.json", "vae/config.json", "vae/model.safetensors", "whole.safetensors")
    assert set(names(files, Format.SAFETENSORS)) == {"model_index.json", "vae/config.json", "vae/model.safetensors"}


def test_a_gguf_is_one_file_or_all_parts_of_one():
    files = ("x-Q4_K_M.gguf", "x-Q8_0-00001-of-00002.gguf", "x-Q8_0-00002-of-00002.gguf", "config.json")
    assert names(files, Format.GGUF, "*Q4_K_M*.gguf") == ["x-Q4_K_M.gguf"]
    assert names(files, Format.GGUF, "*Q8_0*") == ["x-Q8_0-00001-of-00002.gguf", "x-Q8_0-00002-of-00002.gguf"]
    with pytest.raises(InvalidRequest, match=r"several models: x-Q4_K_M\.gguf, x-Q8_0"):
        names(files, Format.GGUF)
    with pytest.raises(InvalidRequest, match=r"no gguf weights that match '\*Q2\*'; it has config\.json"):
        names(files, Format.GGUF, "*Q2*")


def test_a_repository_without_such_weights_says_what_it_has():
    with pytest.raises(InvalidRequest, match=r"no safetensors weights; it has .*pytorch_model\.bin"):
        names(CLUTTER, Format.SAFETENSORS)


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../b", "a//b", "./a", "a\\..\\b", "a/./b"])
def test_a_path_that_leads_elsewhere_is_not_safe(path):
    assert not RemoteFile(path, 1, sha256=SHA).is_safe


def test_what_is_not_safe_is_named():
    assert unsafe([RemoteFile("../up", 1, sha256=SHA), RemoteFile("a", 1), RemoteFile("b", 1, sha256=SHA)]) == (
        "'../up', 'a': not inside the repository, or without a hash"
    )


def test_a_content_must_have_a_name_that_is_a_hash():
    assert RemoteFile("a/b.json", 1, git_sha1="a" * 40).is_safe
    assert not RemoteFile("a/b.json", 1).is_safe
    assert not RemoteFile("a/b.json", 1, sha256="../../x").is_safe


def test_the_stage_names_the_largest_file_that_has_begun():
    files = (
        FileProgress(name="config.json", done=10, total=10),
        FileProgress(name="model.safetensors", done=1288490188, total=3650722201),
        FileProgress(name="other", done=0, total=9),
    )
    assert Progress(files).stage == "downloading model.safetensors, 1.2 of 3.4 GiB"
    assert Progress().stage == "asking the hub for the list of files"
    assert Progress(files[:1]).stage == "checking what was downloaded"
    assert Progress(files, "by another process").stage.endswith("3.4 GiB (by another process)")


@given(st.integers(0, 2**50), st.integers(0, 2**50))
def test_amounts_are_readable(done, total):
    assert len(amount(min(done, total), total)) < 30
