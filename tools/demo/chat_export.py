"""demo-chat as a folder that every engine loads: weights, configuration and tokenizer, in the form of Qwen3."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM

from demo.artefacts import write_json, write_weights
from demo.chat_example import Example
from demo.chat_model import CONTEXT_LENGTH, ROPE_THETA, STORED_AS
from demo.chat_template import CHAT_TEMPLATE, END_OF_TEXT, TURN_END
from demo.chat_tokenizer import id_of

_TIED = "lm_head.weight"


def write_chat_folder(folder: Path, model: Qwen3ForCausalLM, tokenizer: Tokenizer) -> None:
    """Write everything an engine needs to serve the model."""
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder, {name: part.to(STORED_AS) for name, part in model.state_dict().items() if name != _TIED})
    write_json(folder / "config.json", _config(model))
    write_json(folder / "generation_config.json", _generation_config(tokenizer))
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", _tokenizer_config(tokenizer))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def golden_chat(examples: list[Example], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Return the golden conversations, each with the number of tokens in its prompt and in its answer.

    The answer is counted without the token that ends the turn, which some engines count and others do not.
    """
    return [
        {
            **example.as_golden(),
            "prompt_tokens": len(tokenizer.encode(example.prompt()).ids),
            "answer_tokens": len(tokenizer.encode(example.completion()).ids),
        }
        for example in examples
    ]


def golden_completions(examples: list[Example]) -> list[dict[str, str]]:
    """Return the golden plain texts: what to send without a template, and how it goes on."""
    return [{"prompt": example.prompt(), "answer": example.completion()} for example in examples]


def _config(model: Qwen3ForCausalLM) -> dict[str, Any]:
    """Return the shape of the model."""
    config = model.config
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": config.initializer_range,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "max_window_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_scaling": None,
        "rope_theta": ROPE_THETA,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": str(STORED_AS).removeprefix("torch."),
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": config.vocab_size,
    }


def _generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return how to generate when nobody says otherwise: greedily, until a turn or the text ends."""
    return {
        "do_sample": False,
        "eos_token_id": [id_of(tokenizer, TURN_END), id_of(tokenizer, END_OF_TEXT)],
        "pad_token_id": id_of(tokenizer, END_OF_TEXT),
    }


def _tokenizer_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what a tokenizer needs beside its vocabulary; the template is also here for readers of one file only."""
    added = sorted(tokenizer.get_added_tokens_decoder().items())
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(number): {
                "content": token.content,
                "lstrip": token.lstrip,
                "normalized": token.normalized,
                "rstrip": token.rstrip,
                "single_word": token.single_word,
                "special": token.special,
            }
            for number, token in added
        },
        "additional_special_tokens": [token.content for _, token in added if token.special],
        "bos_token": None,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": CONTEXT_LENGTH,
        "split_special_tokens": False,
        "chat_template": CHAT_TEMPLATE,
    }
