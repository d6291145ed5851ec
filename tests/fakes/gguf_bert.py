"""BERT models as GGUF files, made from folders in the format of Hugging Face."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors import numpy as safetensors

POOLER = {"pooler.dense": "cls", "classifier": "cls.output"}
"""The head of a cross-encoder, under llama.cpp's names."""


def write_bert(folder: Path, path: Path, pooling: int | None) -> Path:
    """The model of a folder in one file. ``pooling``: the number of llama.cpp's way to pool, if the file says it."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_file_type(0)
    if pooling is not None:
        writer.add_pooling_type(gguf.PoolingType(pooling))
    if "id2label" in config:
        writer.add_classifier_output_labels(list(config["id2label"].values()))
    _add_word_pieces(writer, folder, config["type_vocab_size"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, config["num_hidden_layers"])
    for name, values in safetensors.load_file(folder / "model.safetensors").items():
        stem, _, part = name.removeprefix("bert.").rpartition(".")
        target = POOLER.get(stem) if "id2label" in config and stem in POOLER else names.get_name(stem)
        if target is not None:
            writer.add_tensor(f"{target}.{part}", np.ascontiguousarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_word_pieces(writer: Any, folder: Path, kinds: int) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    special = {token["id"] for token in tokenizer["added_tokens"]}
    tokens = [token for token, _ in sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])]
    written = [
        token if index in special else token[2:] if token.startswith("##") else "\u2581" + token
        for index, token in enumerate(tokens)
    ]
    writer.add_token_type_count(kinds)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(written)
    writer.add_token_types([3 if index in special else 1 for index in range(len(tokens))])
    gguf.SpecialVocab(folder, n_vocab=len(tokens)).add_to_gguf(writer)
