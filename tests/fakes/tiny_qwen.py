"""A tiny random Qwen3 with a tokenizer of its own. Large weights make it decided, so that rounding changes nothing."""

import json
from pathlib import Path

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers


def write_tiny_qwen(folder: Path, text: str, template: str) -> Path:
    """Write the model's folder.

    Args:
        folder: where to.
        text: what the tokenizer learns its 510 tokens from.
        template: the chat template; ``<|turn|>`` and ``<|end|>`` are special tokens, and the latter ends answers.
    """
    end = write_tokenizer(folder, text)
    config = transformers.Qwen3Config(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        initializer_range=0.4,
        eos_token_id=end,
        bos_token_id=None,
    )
    torch.manual_seed(7)
    transformers.utils.logging.disable_progress_bar()
    transformers.Qwen3ForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "eos_token": "<|end|>"}))
    return folder


def write_tokenizer(folder: Path, text: str) -> int:
    """Write a ``tokenizer.json`` of up to 512 tokens that is learnt from a text; the id of ``<|end|>``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=510, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<|turn|>", "<|end|>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    end: int = tokenizer.token_to_id("<|end|>")
    return end
