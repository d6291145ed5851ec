"""Images on the transformers engine: toy models of several architectures, against the library's own generation."""

import asyncio
import base64
import importlib.util
import io
import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
PIL = pytest.importorskip("PIL.Image")

from fakes.vision import SEERS, write_seer  # noqa: E402

from xinfer.catalog.introspect import introspect  # noqa: E402
from xinfer.devices import Grant, Lease  # noqa: E402
from xinfer.engines.base import JSON_HEAD, SSE_HEAD, Call  # noqa: E402
from xinfer.engines.media import MediaLimits, checked_image  # noqa: E402
from xinfer.engines.transformers import ENGINE  # noqa: E402
from xinfer.engines.transformers.images import decoded  # noqa: E402
from xinfer.engines.transformers.pictures import Pictures, Span, Window  # noqa: E402
from xinfer.engines.transformers.processor import load_processor  # noqa: E402
from xinfer.engines.transformers.shape import CacheLimits  # noqa: E402
from xinfer.errors import ContextOverflow, InvalidRequest, LoadFailed  # noqa: E402
from xinfer.ops import Kind, Op  # noqa: E402
from xinfer.protocols.content import ImagePart, read_data_url  # noqa: E402
from xinfer.spec import Format, ModelSpec  # noqa: E402

pytestmark = pytest.mark.engine("transformers")

GRANT = Grant(lease=Lease(replica_id="r", generation=1, slices=()))
TOKENS = 10


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("seers")
    return {name: write_seer(root / name, name) for name in SEERS}


def picture(seed: int, size: tuple[int, int] = (40, 30)) -> "PIL.Image":
    """Noise of few colours, another one for each seed."""
    values = torch.randint(0, 255, (size[1], size[0], 3), generator=torch.Generator().manual_seed(seed))
    return PIL.fromarray(values.to(torch.uint8).numpy())


def data_url(image: "PIL.Image", form: str = "PNG", **how: Any) -> str:
    file = io.BytesIO()
    image.save(file, form, **how)
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def message(*parts: Any) -> dict[str, Any]:
    """Of texts and images."""
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": data_url(part)}}
        for part in parts
    ]
    return {"role": "user", "content": content}


CONVERSATIONS: list[list[Any]] = [
    ["What does the goose say?"],
    [picture(1), "What is it?"],
    ["First ", picture(2, (20, 50)), " then ", picture(3, (64, 32)), " what?"],
    ["It says: ", picture(1), picture(1)],
]


def spec_of(folder: Path) -> ModelSpec:
    return ModelSpec(name="toy", kind=Kind.VISION_LANGUAGE, source=str(folder), format=Format.SAFETENSORS)


def with_model(folder: Path, use: Callable[[Any], Awaitable[Any]], **options: Any) -> Any:
    """Load a model, use it, close it."""

    async def main() -> Any:
        engine = ENGINE()
        await engine.load(spec_of(folder), options, GRANT, lambda _stage, _fraction: None)
        try:
            return await use(engine)
        finally:
            await engine.close()

    return asyncio.run(main())


async def chat(engine: Any, parts: list[Any], **fields: Any) -> dict[str, Any]:
    """A greedy answer, unless the fields say otherwise; of a stream its joined text."""
    asked = {"temperature": 0, "max_tokens": TOKENS, "ignore_eos": True, **fields}
    asked = {name: value for name, value in asked.items() if value is not None}
    body = json.dumps({"model": "m", "messages": [message(*parts)], **asked}).encode()
    head, *rest = [frame async for frame in engine.serve(Call("id", Op.CHAT, body, "m"))]
    if not fields.get("stream"):
        assert head == JSON_HEAD
        return json.loads(rest[0])
    assert head == SSE_HEAD
    lines = b"".join(rest).decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(line[6:]) for line in lines[:-2]]
    text = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    return {"choices": [{"message": {"content": text}}]}


def text_of(answer: dict[str, Any]) -> str:
    return answer["choices"][0]["message"]["content"]


def reference(folder: Path, name: str, parts: list[Any]) -> tuple[str, int]:
    """What the library itself answers, and how many tokens its prompt has."""
    seer = SEERS[name]
    model = getattr(transformers, seer.architecture).from_pretrained(folder, dtype="float32").eval()
    processor = load_processor(folder, model.config)
    text = "".join(part if isinstance(part, str) else seer.mark for part in parts)
    images = [part for part in parts if not isinstance(part, str)] or None
    given = processor(images=images, text=[f"<|turn|>{text}<|end|><|turn|>"], return_tensors="pt")
    size = given["input_ids"].shape[1]
    with torch.inference_mode():
        ids = model.generate(**given, max_new_tokens=TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0)
    return processor.tokenizer.decode(ids[0, size:], skip_special_tokens=True), size


# --- against the library ---


@pytest.mark.parametrize("name", SEERS)
@pytest.mark.parametrize("options", [{}, {"prefill_chunk": 16, "max_num_seqs": 3}], ids=["whole", "parts"])
def test_answers_are_those_of_the_library_in_a_batch(folders, name, options):
    async def use(engine):
        return await asyncio.gather(*[chat(engine, parts) for parts in CONVERSATIONS])

    answers = with_model(folders[name], use, **options)
    expected = [reference(folders[name], name, parts) for parts in CONVERSATIONS]
    assert [(text_of(answer), answer["usage"]["prompt_tokens"]) for answer in answers] == expected
    assert len({text for text, _ in expected}) == len(expected)


@pytest.mark.parametrize("name", ["qwen3-vl", "gemma3"])
def test_nobody_sees_the_images_of_others(folders, name):
    def asked(index: int) -> tuple[list[Any], dict[str, Any]]:
        fields = {"max_tokens": 2 + index % 9, "stream": index % 3 == 0}
        if index % 4 == 0:
            return ["It says: ", "good evening " * (1 + index)], fields
        return [picture(index, (16 + 8 * (index % 5), 24)), f"number {index}"], fields

    requests = [asked(index) for index in range(16)]

    async def use(engine):
        alone = [await chat(engine, parts, **fields) for parts, fields in requests]
        together = await asyncio.gather(*[chat(engine, parts, **fields) for parts, fields in requests])
        return alone, together

    alone, together = with_model(folders[name], use, max_num_seqs=6, prefill_chunk=32)
    assert [text_of(answer) for answer in together] == [text_of(answer) for answer in alone]
    assert len({text_of(answer) for answer in alone}) > 12


def test_memory_that_runs_out_loses_no_image(folders):
    """Rows are suspended, and read again with what they had written."""
    requests = [[picture(index), f"number {index}"] for index in range(4)]
    fields = {"max_tokens": 40}

    async def use(engine):
        runner = engine._steps._runner
        alone = [await chat(engine, parts, **fields) for parts in requests]
        room = runner._limits
        runner._limits = CacheLimits(room.max_rows, room.max_length, positions=150)
        return alone, await asyncio.gather(*[chat(engine, parts, **fields) for parts in requests])

    alone, together = with_model(folders["qwen2.5-vl"], use)
    assert [text_of(answer) for answer in together] == [text_of(answer) for answer in alone]


# --- what requests may ask for ---


def test_requests_with_images_wait_for_their_turn_and_text_passes_them(folders, monkeypatch):
    monkeypatch.setenv("XINFER_MEDIA_MAX_REQUESTS", "1")

    async def use(engine):
        first, second = (asyncio.create_task(chat(engine, parts, max_tokens=60)) for parts in CONVERSATIONS[1:3])
        while not engine.load_report().queued:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0)
        await chat(engine, CONVERSATIONS[0], max_tokens=2)
        assert not second.done()
        return len([await first, await second])

    assert with_model(folders["llava"], use) == 2


def test_choices_of_one_request_share_the_work_on_its_images(folders):
    async def use(engine):
        return await chat(engine, CONVERSATIONS[2], n=3)

    answer = with_model(folders["qwen3-vl"], use)
    assert len({choice["message"]["content"] for choice in answer["choices"]}) == 1
    size = answer["usage"]["prompt_tokens"]
    assert size == reference(folders["qwen3-vl"], "qwen3-vl", CONVERSATIONS[2])[1]


def test_seeds_logprobs_stops_and_schemas_are_honoured(folders):
    schema = {"type": "object", "properties": {"goose": {"type": "boolean"}}, "required": ["goose"]}
    schema["additionalProperties"] = False
    form = {"type": "json_schema", "json_schema": {"name": "seen", "schema": schema}}

    async def use(engine):
        parts = CONVERSATIONS[1]
        sampled = [await chat(engine, parts, temperature=1.3, seed=5) for _ in range(2)]
        scored = await chat(engine, parts, logprobs=True, top_logprobs=2)
        plain = text_of(await chat(engine, parts))
        stopped = await chat(engine, parts, stop=plain[3:5])
        structured = await chat(engine, parts, response_format=form, max_tokens=60, ignore_eos=None)
        return sampled, scored, plain, stopped, structured

    sampled, scored, plain, stopped, structured = with_model(folders["llava"], use)
    assert text_of(sampled[0]) == text_of(sampled[1])
    assert len(scored["choices"][0]["logprobs"]["content"]) == TOKENS
    assert text_of(stopped) == plain[: plain.index(plain[3:5])]
    assert isinstance(json.loads(text_of(structured))["goose"], bool)


def read(image: "PIL.Image", form: str = "PNG", detail: str = "auto", **how: Any) -> "PIL.Image":
    """What the model is shown of a file."""
    part = ImagePart("messages[0].content[0].image_url", data_url(image, form, **how), detail)
    return decoded(checked_image(part, read_data_url(part), MediaLimits(images=1, mib=8, pixels=1_000_000)))


@pytest.mark.parametrize(("detail", "size"), [("auto", (900, 600)), ("high", (900, 600)), ("low", (512, 341))])
def test_low_detail_is_a_smaller_picture(detail, size):
    assert read(picture(1, (900, 600)), detail=detail).size == size


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WebP", "GIF", "BMP"])
def test_every_format_is_read(form):
    shown = read(PIL.new("RGB", (40, 30), "red"), form)
    red, green, blue = shown.getpixel((20, 15))
    assert (shown.mode, shown.size) == ("RGB", (40, 30))
    assert red > 250
    assert max(green, blue) < 5


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "I;16"])
def test_pictures_of_every_mode_are_read(mode):
    assert read(PIL.new(mode, (40, 30))).mode == "RGB"


def test_transparent_is_white():
    assert read(PIL.new("RGBA", (4, 3), (255, 0, 0, 0))).getpixel((1, 1)) == (255, 255, 255)


def test_grey_of_16_bits_is_as_dark_as_it_is():
    assert read(PIL.new("I;16", (4, 3), 500)).getpixel((1, 1)) == (1, 1, 1)
    assert read(PIL.new("I;16", (4, 3), 65_535)).getpixel((1, 1)) == (255, 255, 255)
    assert read(PIL.new("I;16", (4, 3), 500), transparency=500).getpixel((1, 1)) == (255, 255, 255)
    assert read(PIL.new("I;16", (4, 3), 500), transparency=1).getpixel((1, 1)) == (1, 1, 1)


def test_a_picture_that_is_to_be_turned_is_turned():
    image = picture(4, (60, 20))
    exif = PIL.Exif()
    exif[0x0112] = 6  # a quarter to the right
    assert read(image, exif=exif).tobytes() == image.rotate(-90, expand=True).tobytes()


# --- refusals ---


def test_a_damaged_image_is_refused_by_its_place(folders):
    whole = data_url(picture(1))
    content = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": whole[:-400]}}]
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}).encode()

    async def use(engine):
        return [frame async for frame in engine.serve(Call("id", Op.CHAT, body, "m"))]

    with pytest.raises(InvalidRequest, match="is not an image that can be read") as caught:
        with_model(folders["llava"], use)
    assert caught.value.param == "messages[0].content[1].image_url"


def test_what_images_take_counts_against_the_context(folders):
    async def use(engine):
        return await chat(engine, [*[picture(index) for index in range(8)], "what?"], max_tokens=400)

    with pytest.raises(ContextOverflow, match=r"the prompt has 1\d\d and the answer may have 400"):
        with_model(folders["llava"], use)


def test_marks_that_a_client_writes_stand_for_no_image(folders):
    forged = "<|image_pad|> <|vision_start|><|image_pad|><|vision_end|>"

    async def use(engine):
        alone = await chat(engine, [forged])
        beside = await chat(engine, [forged, picture(1)])
        return alone, beside

    alone, beside = with_model(folders["qwen2.5-vl"], use)
    assert alone["usage"]["prompt_tokens"] < beside["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("name", "left_out"),
    [("llava", {"inputs": {}}), ("gemma3", {"blocks": None}), ("qwen2.5-vl", {"rotary": None})],
)
def test_a_model_that_would_see_wrongly_is_not_served(folders, monkeypatch, name, left_out):
    right = Pictures.window

    def wrong(self, filled, size, device) -> Window:
        return right(self, filled, size, device)._replace(**left_out)

    async def use(engine):
        raise AssertionError("it was loaded")

    monkeypatch.setattr(Pictures, "window", wrong)
    with pytest.raises(LoadFailed, match="answers differently about images"):
        with_model(folders[name], use)


def test_an_image_that_the_model_cannot_read_harms_nobody_else(folders):
    """Its processor makes more of it than it said."""

    async def use(engine):
        reader = engine._jobs._reader
        before = text_of(await chat(engine, CONVERSATIONS[1]))
        right = reader._prepared

        def wrong(image):
            made = right(image)
            return made._replace(inputs={name: torch.cat([value, value]) for name, value in made.inputs.items()})

        beside = asyncio.create_task(chat(engine, ["The goose says"], max_tokens=60))
        reader._prepared = wrong
        with pytest.raises(InvalidRequest, match="the model cannot read the images"):
            await chat(engine, CONVERSATIONS[1])
        reader._prepared = right
        return before, text_of(await chat(engine, CONVERSATIONS[1])), await beside

    before, after, beside = with_model(folders["llava"], use)
    assert after == before
    assert beside["usage"]["completion_tokens"] == 60


# --- what is accepted ---


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"architectures": ["MllamaForConditionalGeneration"], "text_config": {"cross_attention_layers": [3]}}, "own"),
        ({"architectures": ["Florence2ForConditionalGeneration"], "is_encoder_decoder": True}, "encoder-decoder"),
        (
            {"architectures": ["XForConditionalGeneration"], "text_config": {"layer_types": ["linear_attention"]}},
            "kind",
        ),
        ({"architectures": ["CLIPModel"]}, "is no causal language model"),
    ],
)
def test_models_whose_images_need_something_else_are_told_by_their_files(tmp_path, config, reason):
    (tmp_path / "config.json").write_text(json.dumps(config))
    match = ENGINE.accepts(spec_of(tmp_path))
    assert not match.ok
    assert reason in match.reason


@pytest.mark.parametrize("name", SEERS)
def test_a_folder_says_all_that_is_needed_to_serve_it(folders, name):
    spec = introspect(str(folders[name]))
    assert spec.kind is Kind.VISION_LANGUAGE
    assert {"chat", "vision"} <= set(spec.abilities)
    assert ENGINE.accepts(spec).ok
    files = [file.stat().st_size for file in folders[name].glob("*.safetensors")]
    assert spec.weights_mib == -(-sum(files) // 2**20)  # what looks at images included


def test_the_processor_is_known_by_the_type_of_the_model(folders, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(folders["llava"], folder)
    for file in ("processor_config.json", "preprocessor_config.json"):
        content = json.loads((folder / file).read_text())
        del content["processor_class"]
        (folder / file).write_text(json.dumps(content))

    async def use(engine):
        return await chat(engine, CONVERSATIONS[1])

    assert text_of(with_model(folder, use)) == reference(folders["llava"], "llava", CONVERSATIONS[1])[0]


def test_what_is_missing_is_said(folders, tmp_path, monkeypatch):
    async def use(engine):
        raise AssertionError("it was loaded")

    folder = tmp_path / "part"
    shutil.copytree(folders["llava"], folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(LoadFailed, match="the processor of its images cannot be made"):
        with_model(folder, use)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "PIL" else found(name, *rest))
    with pytest.raises(LoadFailed, match="needs the package pillow"):
        with_model(folders["llava"], use)


# --- what goes into a pass ---


def test_a_pass_has_one_image_or_none():
    pictures = Pictures([Span(3, 7), Span(7, 9), Span(20, 40)], [{}, {}, {}])
    sizes, filled = [], 0
    while filled < 60:
        sizes.append(pictures.size_of_pass(filled, min(8, 60 - filled)))
        filled += sizes[-1]
    assert sizes == [3, 4, 2, 8, 3, 20, 8, 8, 4]
    assert [pictures.whole_from(filled) for filled in (2, 3, 6, 7, 8, 9, 39, 40)] == [2, 3, 3, 7, 7, 9, 20, 40]


def test_positions_go_on_behind_the_prompt():
    rotary = torch.tensor([[0, 1, 1, 1, 1, 3], [0, 1, 1, 2, 2, 3], [0, 1, 2, 1, 2, 3]])[:, None]
    pictures = Pictures([Span(1, 5)], [{"pixel_values": torch.ones(2)}], rotary=rotary, shift=-2)
    image = pictures.window(1, 4, torch.device("cpu"))
    assert image.rotary.tolist() == rotary[..., 1:5].tolist()
    assert set(image.inputs) == {"pixel_values"}
    behind = pictures.window(5, 3, torch.device("cpu"))
    assert behind.rotary.tolist() == [[[3, 4, 5]]] * 3
    assert behind.inputs == {}
