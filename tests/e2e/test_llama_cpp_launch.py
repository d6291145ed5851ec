"""GGUF files of several quantisations and kinds, launched by their path and nothing else."""

import pytest
from e2e.answering import check_answer
from e2e.demo_chat import DEMO
from e2e.engine_cases import is_present, share_environments

pytestmark = pytest.mark.skipif(
    not is_present("llama.cpp"), reason="llama.cpp is not installed; make test-engines builds its environment"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory, open_site):
    root = tmp_path_factory.mktemp("gguf")
    share_environments(root)
    with open_site(root) as site:
        site.local()
        yield site


@pytest.mark.parametrize("quantization", ["Q8_0", "Q4_0", "F16"])
def test_a_file_is_recognised_and_answers(server, tmp_path, quantization):
    from fakes.models import write_gguf  # noqa: PLC0415 - it needs the libraries of engines

    uid = server.launch(str(write_gguf(tmp_path / f"toy-{quantization}.gguf", quantization)))
    model = server.get(f"/v1/models/{uid}")
    assert (model["model_engine"], model["model_format"], model["quantization"]) == (
        "llama.cpp",
        "gguf",
        quantization,
    )
    check_answer(server, uid)
    server.terminate(uid)


@pytest.mark.parametrize(("name", "pooling"), [("demo-embed", 1), ("demo-rerank", 4)])
def test_a_file_of_another_kind_is_recognised_and_answers(server, tmp_path, name, pooling):
    from fakes.gguf_bert import write_bert  # noqa: PLC0415 - likewise

    uid = server.launch(str(write_bert(DEMO / name, tmp_path / f"{name}.gguf", pooling)))
    assert server.get(f"/v1/models/{uid}")["model_engine"] == "llama.cpp"
    check_answer(server, uid, dimensions=64)
    server.terminate(uid)
