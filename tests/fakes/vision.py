"""Toy models that see: random weights, a tokenizer of their own, and the processors of their real relatives."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import PIL.Image
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from xinfer.engines.transformers.processor import load_processor

TEXT = "A goose flew over the quiet lake. What does the goose say? It says: good evening to the lake, and to you. "
VOCABULARY = 512
CONTEXT = 512
TURN, END = "<|turn|>", "<|end|>"

LANGUAGE: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": None,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}


class Seer(NamedTuple):
    """How to write a model that sees.

    ``config`` makes its configuration of the text part and the ids of ``tokens``. ``mark`` is what its template writes
    for an image.
    """

    architecture: str
    processor: str
    tokens: tuple[str, ...]
    mark: str
    config: Callable[[dict[str, Any], Mapping[str, int]], Any]
    preprocessor: Mapping[str, Any]
    more: Mapping[str, Any] = {}
    """For the processor."""


QWEN_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
QWEN_MARK = "<|vision_start|><|image_pad|><|vision_end|>"
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}


def _qwen_ids(ids: Mapping[str, int]) -> dict[str, int]:
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    return dict(zip(names, (ids[token] for token in QWEN_TOKENS), strict=True))


def _qwen25(text: dict[str, Any], ids: Mapping[str, int]) -> Any:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 4,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }
    text = {**text, "hidden_size": 64, "rope_parameters": MROPE}
    vision["out_hidden_size"] = 64
    return transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_qwen_ids(ids))


def _qwen3(text: dict[str, Any], ids: Mapping[str, int]) -> Any:
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 4,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    return transformers.Qwen3VLConfig(
        text_config={**text, "rope_parameters": MROPE}, vision_config=vision, **_qwen_ids(ids)
    )


def _llava(text: dict[str, Any], ids: Mapping[str, int]) -> Any:
    vision = {**_TOWER, "model_type": "clip_vision_model", "image_size": 32, "patch_size": 8, "projection_dim": 32}
    return transformers.LlavaConfig(
        text_config={**text, "model_type": "llama"},
        vision_config=vision,
        image_token_id=ids["<image>"],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=16,
        tie_word_embeddings=False,
    )


def _gemma3(text: dict[str, Any], ids: Mapping[str, int]) -> Any:
    vision = {**_TOWER, "model_type": "siglip_vision_model", "image_size": 32, "patch_size": 4}
    text = {
        **text,
        "sliding_window": 12,
        "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    }
    return transformers.Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=16,
        tie_word_embeddings=False,
        boi_token_index=ids["<start_of_image>"],
        eoi_token_index=ids["<end_of_image>"],
        image_token_index=ids["<image_soft_token>"],
    )


def _idefics3(text: dict[str, Any], ids: Mapping[str, int]) -> Any:
    vision = {**_TOWER, "model_type": "idefics3_vision", "image_size": 32, "patch_size": 8}
    return transformers.Idefics3Config(
        text_config={**text, "model_type": "llama"},
        vision_config=vision,
        image_token_id=ids["<image>"],
        scale_factor=2,
        pad_token_id=None,
    )


_TOWER: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_IDEFICS = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")

SEERS: Mapping[str, Seer] = {
    "qwen2.5-vl": Seer(
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen2_5_VLProcessor",
        QWEN_TOKENS,
        QWEN_MARK,
        _qwen25,
        {
            "image_processor_type": "Qwen2VLImageProcessor",
            "patch_size": 4,
            "size": {"shortest_edge": 64, "longest_edge": 4096},
            **_HALF,
        },
    ),
    "qwen3-vl": Seer(
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLProcessor",
        QWEN_TOKENS,
        QWEN_MARK,
        _qwen3,
        {
            "image_processor_type": "Qwen2VLImageProcessor",
            "patch_size": 4,
            "size": {"shortest_edge": 64, "longest_edge": 4096},
            **_HALF,
        },
    ),
    "llava": Seer(
        "LlavaForConditionalGeneration",
        "LlavaProcessor",
        ("<image>",),
        "<image>",
        _llava,
        {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": 32},
            "crop_size": {"height": 32, "width": 32},
            **_HALF,
        },
        {
            "patch_size": 8,
            "vision_feature_select_strategy": "default",
            "image_token": "<image>",
            "num_additional_image_tokens": 1,
        },
    ),
    "gemma3": Seer(
        "Gemma3ForConditionalGeneration",
        "Gemma3Processor",
        ("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
        "<start_of_image>",
        _gemma3,
        {"image_processor_type": "Gemma3ImageProcessor", "size": {"height": 32, "width": 32}, **_HALF},
        {"image_seq_length": 16},
    ),
    "idefics3": Seer(
        "Idefics3ForConditionalGeneration",
        "Idefics3Processor",
        (*_IDEFICS, *(f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4))),
        "<image>",
        _idefics3,
        {
            "image_processor_type": "Idefics3ImageProcessor",
            "size": {"longest_edge": 64},
            "max_image_size": {"longest_edge": 32},
            "do_image_splitting": True,
            **_HALF,
        },
        {"image_seq_len": 4},
    ),
}
"""By the names of their real relatives."""


def write_seer(folder: Path, name: str) -> Path:
    """Write one of ``SEERS``."""
    seer = SEERS[name]
    folder.mkdir(parents=True)
    ids = _write_tokenizer(folder, seer.tokens)
    config = seer.config({**LANGUAGE, "eos_token_id": ids[END]}, ids)
    torch.manual_seed(7)
    transformers.utils.logging.disable_progress_bar()
    model = getattr(transformers, seer.architecture)(config)
    for part, weight in model.named_parameters():
        if weight.dim() > 1:  # so large that answers are decided, and differ from picture to picture
            torch.nn.init.normal_(weight, std=0.1 if "position" in part else 0.4)
    model.save_pretrained(folder)
    shown = "{% if part.type == 'image' %}" + seer.mark + "{% else %}{{ part.text }}{% endif %}"
    content = (
        "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}" + shown + "{% endfor %}"
    )
    template = "{% for m in messages %}" + TURN + content + "{% endif %}" + END + "{% endfor %}" + TURN
    _write(folder, "processor_config", {"processor_class": seer.processor, **seer.more})
    _write(folder, "preprocessor_config", {"processor_class": seer.processor, **seer.preprocessor})
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    idefics = dict(
        zip(("image_token", "fake_image_token", "global_image_token", "end_of_utterance_token"), _IDEFICS, strict=True)
    )
    extra = {"gemma3": named, "idefics3": idefics}.get(name, {})
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": template,
        "eos_token": END,
        "pad_token": END,
        "extra_special_tokens": extra,
    }
    _write(folder, "tokenizer_config", settings)
    return folder


COLOURS: Mapping[str, tuple[int, int, int]] = {"red": (210, 40, 30), "green": (40, 180, 50), "blue": (30, 50, 210)}
QUESTION = "What does the goose say?"
STEPS = 70


def square(colour: str, side: int = 32) -> PIL.Image.Image:
    """One of ``COLOURS``."""
    return PIL.Image.new("RGB", (side, side), COLOURS[colour])


def write_trained_seer(folder: Path) -> Path:
    """A Qwen2.5-VL that answers ``QUESTION`` with the colour of the ``square`` before it; it is trained in seconds."""
    name = "qwen2.5-vl"
    write_seer(folder, name)
    config = transformers.AutoConfig.from_pretrained(folder)
    config.text_config.initializer_range = 0.05
    torch.manual_seed(3)
    model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    processor = load_processor(folder, config)
    prompt = f"{TURN}{SEERS[name].mark}{QUESTION}{END}{TURN}"
    examples = []
    for colour in COLOURS:
        given = processor(images=[square(colour)], text=[f"{prompt}{colour}{END}"], return_tensors="pt")
        answer = processor.tokenizer(f"{colour}{END}")["input_ids"]
        labels = given["input_ids"].clone()
        labels[:, : -len(answer)] = -100
        examples.append({**given, "labels": labels})
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        for example in examples:
            model(**example).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return folder


def _write_tokenizer(folder: Path, tokens: tuple[str, ...]) -> dict[str, int]:
    """A ``tokenizer.json`` that is learnt from ``TEXT``; the ids of the special tokens."""
    tokens = (TURN, END, *tokens)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in tokens])
    tokenizer.save(str(folder / "tokenizer.json"))
    return {token: tokenizer.token_to_id(token) for token in tokens}


def _write(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    (folder / f"{name}.json").write_text(json.dumps(content))
