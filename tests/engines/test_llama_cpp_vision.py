"""Images on the llama.cpp engine: many at once are answered as the library answers each of them alone."""

import asyncio
import base64
import ctypes
import json
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed here")

import llama_cpp.mtmd_cpp as mtmd  # noqa: E402
from fakes.gguf_vision import write_llava, write_qwen2vl  # noqa: E402

import xinfer.catalog  # noqa: E402
from xinfer.devices import Grant, Lease  # noqa: E402
from xinfer.engines.base import Call  # noqa: E402
from xinfer.engines.llama_cpp import ENGINE  # noqa: E402
from xinfer.errors import InvalidRequest, LoadFailed  # noqa: E402
from xinfer.generation.chat_template import ChatTemplate  # noqa: E402
from xinfer.ops import Kind, Op  # noqa: E402
from xinfer.spec import Format, ModelSpec  # noqa: E402

pytestmark = pytest.mark.engine("llama_cpp")

GRANT = Grant(lease=Lease(replica_id="r", generation=1, slices=()))
COLOURS = {"red": (255, 0, 0), "green": (0, 200, 30), "blue": (10, 20, 255), "grey": (90, 90, 90)}
DEMO_FOLDER = Path(xinfer.catalog.__file__).parent / "demo"
ANSWER_TOKENS = 5


def png(colour: tuple[int, int, int], width: int = 56, height: int = 56) -> bytes:
    """A square in the colour, with stripes, so that its patches differ."""
    rows = b"".join(
        b"\0"
        + b"".join(
            bytes(255 - value if (x // 9 + y // 5) % 3 == 0 else value for value in colour) for x in range(width)
        )
        for y in range(height)
    )

    def block(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", head) + block(b"IDAT", zlib.compress(rows)) + block(b"IEND", b"")


def content(*parts: str | bytes, **detail: str) -> list[dict[str, Any]]:
    """Texts and images as the parts of a message."""
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {
            "type": "image_url",
            "image_url": {"url": "data:image/png;base64," + base64.b64encode(part).decode(), **detail},
        }
        for part in parts
    ]


QUESTIONS: dict[str, list[str | bytes]] = {
    **{name: ["What is this? ", png(colour), " Say the colour."] for name, colour in COLOURS.items()},
    "two": [png(COLOURS["red"]), " and ", png(COLOURS["blue"]), " differ."],
    "wide": ["Look: ", png(COLOURS["green"], 140, 60), " How wide?"],
    "text": ["What is this? Say the colour."],
}


@pytest.fixture(scope="module", params=["llava", "qwen2vl"])
def model(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    return write_llava(folder) if request.param == "llava" else write_qwen2vl(folder)


async def loaded(path: Path, kind: Kind = Kind.VISION_LANGUAGE, **options: Any) -> Any:
    engine = ENGINE()
    spec = ModelSpec(name="m", kind=kind, source=str(path), format=Format.GGUF)
    await engine.load(spec, {"max_model_len": 512, **options}, GRANT, lambda *_: None)
    return engine


async def ask(engine: Any, parts: list[str | bytes], **fields: Any) -> dict[str, Any]:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": content(*parts)}],
        "temperature": 0,
        "max_tokens": ANSWER_TOKENS,
        "ignore_eos": True,
        "logprobs": True,
        **fields,
    }
    frames = [frame async for frame in engine.serve(Call("id", Op.CHAT, json.dumps(body).encode(), "m"))]
    answer: dict[str, Any] = json.loads(frames[1])
    return answer


def cached(answer: dict[str, Any]) -> int:
    details: dict[str, int] = answer["usage"].get("prompt_tokens_details") or {}
    return details.get("cached_tokens", 0)


def tokens_of(answer: dict[str, Any]) -> list[bytes]:
    return [bytes(entry["bytes"]) for entry in answer["choices"][0]["logprobs"]["content"]]


def with_model(path: Path, use: Any, **options: Any) -> Any:
    async def main() -> Any:
        engine = await loaded(path, **options)
        try:
            return await use(engine)
        finally:
            await engine.close()

    return asyncio.run(main())


class Library:
    """libmtmd and libllama by themselves: one prompt after another, in an empty context each."""

    def __init__(self, path: Path) -> None:
        self.model = llama_cpp.Llama(str(path), n_ctx=512, verbose=False, logits_all=False)
        params = mtmd.mtmd_context_params_default()
        params.use_gpu, params.n_threads, params.media_marker = False, 1, b"<__media__>"
        projector = next(path.parent.glob("mmproj*.gguf"))
        self.eyes = mtmd.mtmd_init_from_file(str(projector).encode(), self.model.model, params)

    def close(self) -> None:
        mtmd.mtmd_free(self.eyes)
        self.model.close()

    def answer(self, parts: list[str | bytes]) -> list[bytes]:
        images = [part for part in parts if isinstance(part, bytes)]
        question = "".join("<__media__>" if isinstance(part, bytes) else part for part in parts)
        template = ChatTemplate(self.model.metadata["tokenizer.chat_template"], {})
        text = template.render([{"role": "user", "content": question}], None, {}).encode()
        context = self.model.ctx
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        bitmaps = [mtmd.mtmd_helper_bitmap_init_from_buf(self.eyes, _bytes(data), len(data), False) for data in images]
        chunks = mtmd.mtmd_input_chunks_init()
        written = mtmd.mtmd_input_text(text, len(text), False, True)
        array = (ctypes.c_void_p * max(1, len(bitmaps)))(*bitmaps)
        assert mtmd.mtmd_tokenize(self.eyes, chunks, ctypes.byref(written), array, len(bitmaps)) == 0
        past = llama_cpp.llama_pos(0)
        code = mtmd.mtmd_helper_eval_chunks(self.eyes, context, chunks, 0, 0, 512, True, ctypes.byref(past))
        assert code == 0
        found = []
        batch = llama_cpp.llama_batch_init(1, 0, 1)
        for step in range(ANSWER_TOKENS):
            logits = llama_cpp.llama_get_logits_ith(context, -1)
            token = max(range(self.model.n_vocab()), key=lambda index: logits[index])
            found.append(self.model.detokenize([token], special=True))
            batch.n_tokens, batch.token[0], batch.pos[0] = 1, token, past.value + step
            batch.n_seq_id[0], batch.seq_id[0][0], batch.logits[0] = 1, 0, 1
            assert llama_cpp.llama_decode(context, batch) == 0
        llama_cpp.llama_batch_free(batch)
        mtmd.mtmd_input_chunks_free(chunks)
        for bitmap in bitmaps:
            mtmd.mtmd_bitmap_free(bitmap)
        return found


def _bytes(data: bytes) -> Any:
    return (ctypes.c_uint8 * len(data)).from_buffer_copy(data)


@pytest.fixture(scope="module")
def golden(model) -> dict[str, list[bytes]]:
    library = Library(model)
    try:
        return {name: library.answer(parts) for name, parts in QUESTIONS.items()}
    finally:
        library.close()


@pytest.mark.parametrize("options", [{}, {"n_parallel": 3}, {"kv_unified": True, "n_ctx": 1024}])
def test_many_at_once_are_answered_like_each_alone(model, golden, options):
    names = list(QUESTIONS) * 2

    async def use(engine: Any) -> list[Any]:
        return await asyncio.gather(*(ask(engine, QUESTIONS[name]) for name in names))

    answers = with_model(model, use, **options)
    assert [tokens_of(answer) for answer in answers] == [golden[name] for name in names]


def test_the_images_make_the_difference(golden):
    assert len({tuple(golden[name]) for name in COLOURS}) == len(COLOURS)


def test_what_is_known_of_an_image_is_used_for_no_other(model, golden):
    async def use(engine: Any) -> list[tuple[list[bytes], int, int]]:
        found = []
        for name in ("red", "red", "blue", "wide", "wide"):
            answer = await ask(engine, QUESTIONS[name])
            usage = answer["usage"]
            found.append((tokens_of(answer), usage["prompt_tokens"], cached(answer)))
        return found

    found = with_model(model, use, n_parallel=2)
    assert [tokens for tokens, _, _ in found] == [golden[name] for name in ("red", "red", "blue", "wide", "wide")]
    (_, size, new), (_, same_size, known), (_, _, other) = found[:3]
    assert (new, same_size) == (0, size)
    assert known == size - 1, "an image that is known is not read again"
    assert other < size // 2, "of the same question with another image, only what is before that is known"


def test_a_conversation_goes_on_behind_its_image(model):
    question = {"role": "user", "content": content(*QUESTIONS["red"])}
    later = [question, {"role": "assistant", "content": "red"}, {"role": "user", "content": "And now?"}]

    async def use(engine: Any) -> tuple[Any, Any]:
        await ask(engine, QUESTIONS["red"])
        known = await ask(engine, [], messages=later)
        return known, await ask(
            engine, [], messages=[*later[:2], {"role": "user", "content": content("And ", png((9, 9, 9)), "?")}]
        )

    known, another = with_model(model, use)
    assert cached(known) > known["usage"]["prompt_tokens"] // 2
    assert tokens_of(known) != tokens_of(another)


def test_a_sequence_that_loses_its_slot_looks_again(model, golden):
    async def use(engine: Any) -> list[Any]:
        long = {"max_tokens": 90, "messages": [{"role": "user", "content": "a b c " * 9}]}
        noise = [ask(engine, [], **long) for _ in range(3)]
        return (await asyncio.gather(*(ask(engine, QUESTIONS[name]) for name in COLOURS), *noise))[: len(COLOURS)]

    answers = with_model(model, use, kv_unified=True, n_ctx=512, n_parallel=8)
    assert [tokens_of(answer) for answer in answers] == [golden[name] for name in COLOURS]


def test_a_stream_and_penalties_work_with_images(model):
    async def use(engine: Any) -> str:
        body = {"model": "m", "messages": [{"role": "user", "content": content(*QUESTIONS["red"])}], "stream": True}
        fields = {"temperature": 0.7, "seed": 1, "max_tokens": 6, "repetition_penalty": 1.3, "presence_penalty": 0.5}
        call = Call("id", Op.CHAT, json.dumps(body | fields).encode(), "m")
        return b"".join([frame async for frame in engine.serve(call) if isinstance(frame, bytes)]).decode()

    assert with_model(model, use).endswith("data: [DONE]\n\n")


def test_tokens_of_a_chat_count_its_images(model):
    async def use(engine: Any) -> tuple[int, int]:
        body = {"model": "m", "messages": [{"role": "user", "content": content(*QUESTIONS["two"])}]}
        frames = [frame async for frame in engine.serve(Call("i", Op.TOKENIZE, json.dumps(body).encode(), "m"))]
        answer = await ask(engine, QUESTIONS["two"])
        return json.loads(frames[1])["count"], answer["usage"]["prompt_tokens"]

    counted, used = with_model(model, use)
    assert counted == used


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (["see ", b"GIF89a" + struct.pack("<HH", 4, 4) + b"\0"], "cannot be read by llama.cpp"),
        ([*QUESTIONS["red"] * 20], "context"),
    ],
)
def test_images_that_cannot_be_answered_are_refused(model, parts, reason):
    async def use(engine: Any) -> None:
        with pytest.raises(InvalidRequest, match=reason):
            await ask(engine, parts)
        await ask(engine, QUESTIONS["text"])

    with_model(model, use)


def test_low_detail_looks_at_less(tmp_path):
    large = png((200, 30, 30), 840, 560)
    part = content("see ", large)
    part[1]["image_url"]["detail"] = "low"

    async def use(engine: Any) -> tuple[int, int]:
        counts = []
        for parts in (part, content("see ", large)):
            messages = [{"role": "user", "content": [*parts, *content(" and say")]}]
            answer = await ask(engine, [], messages=messages, max_tokens=1)
            counts.append(answer["usage"]["prompt_tokens"])
        return counts[0], counts[1]

    low, high = with_model(write_qwen2vl(tmp_path), use, max_model_len=1024)
    assert low < high // 2


def test_a_model_without_its_file_for_images(tmp_path):
    file = write_qwen2vl(tmp_path)
    next(tmp_path.glob("mmproj*")).rename(tmp_path / "eyes.gguf")
    with pytest.raises(LoadFailed, match=r"no file \*mmproj\*\.gguf beside tiny\.gguf"):
        asyncio.run(loaded(file))

    async def blind(**options: Any) -> None:
        engine = await loaded(file, **options)
        try:
            with pytest.raises(InvalidRequest) as refused:
                await ask(engine, QUESTIONS["red"])
            assert refused.value.param == "messages[0].content[1].image_url"
        finally:
            await engine.close()

    asyncio.run(blind(kind=Kind.LLM))
    asyncio.run(blind(mmproj="none"))
    with_model(file, lambda engine: ask(engine, QUESTIONS["red"]), mmproj="eyes.gguf")
    with pytest.raises(InvalidRequest, match="mmproj"):
        asyncio.run(loaded(file, mmproj="../eyes.gguf"))


def test_an_encoder_of_another_model_is_refused(tmp_path):
    write_llava(tmp_path)
    wider = shutil.copy(DEMO_FOLDER / "demo-chat" / "demo-chat.gguf", tmp_path / "wider.gguf")
    with pytest.raises(LoadFailed, match=r"cannot load mmproj-tiny\.gguf: .*mismatch"):
        asyncio.run(loaded(wider))
