"""Models that see, launched by the path of their folder; the official client shows them pictures."""

import base64
import importlib.util
import io

import openai
import pytest

if not all(importlib.util.find_spec(library) for library in ("torch", "transformers", "PIL")):
    pytest.skip("the engine is not installed", allow_module_level=True)

from fakes.vision import COLOURS, QUESTION, square, write_trained_seer


@pytest.fixture(scope="module")
def server(tmp_path_factory, open_site):
    folder = tmp_path_factory.mktemp("models")
    path = write_trained_seer(folder / "seer")
    with open_site(tmp_path_factory.mktemp("vision"), model_roots=folder) as site:
        site.local()
        done = site.run("launch", str(path))
        assert done.returncode == 0, done.stderr
        yield site


def question(url: str, text: str = QUESTION) -> list[dict[str, object]]:
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


def png(colour: str, side: int = 32) -> str:
    file = io.BytesIO()
    square(colour, side).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


@pytest.mark.parametrize("colour", COLOURS)
def test_it_says_what_it_sees(server, colour):
    with server.client() as client:
        asked = {"model": "seer", "messages": question(png(colour)), "temperature": 0}
        whole = client.chat.completions.create(**asked)
        *chunks, last = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    assert whole.choices[0].message.content == colour
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == colour
    assert last.usage == whole.usage
    assert whole.usage.prompt_tokens > 16  # of which the picture takes 16


def test_it_is_listed_as_one_that_sees(server):
    model = server.get("/v1/models/seer")
    assert (model["model_type"], model["model_engine"]) == ("vision-language", "transformers")
    assert {"chat", "vision"} <= set(model["model_ability"])


def test_what_it_cannot_see_is_refused(server):
    broken = png("red")[:-40]
    around = f"{server.url}/picture.png"
    with server.client() as client:
        for url, says in ((broken, "image"), (around, "does not fetch from"), (png("red", 9000), "pixels")):
            with pytest.raises(openai.BadRequestError, match=says) as caught:
                client.chat.completions.create(model="seer", messages=question(url))
            assert caught.value.param == "messages[0].content[0].image_url"


def test_it_also_reads_mere_text(server):
    with server.client() as client:
        messages = [{"role": "user", "content": QUESTION}]
        answer = client.chat.completions.create(model="seer", messages=messages, max_tokens=4)
    assert answer.usage.completion_tokens <= 4
