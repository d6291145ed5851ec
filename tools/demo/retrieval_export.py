"""demo-embed and demo-rerank as folders that sentence-transformers, vLLM and others load."""

from pathlib import Path
from typing import Any

from transformers import BertForSequenceClassification, BertModel, BertTokenizer

from demo.artefacts import write_json, write_weights
from demo.embed_training import MATRYOSHKA_DIMENSIONS
from demo.retrieval_corpus import documents, golden_queries
from demo.retrieval_model import LONGEST_TEXT

_MODULES = ("Transformer", "Pooling", "Normalize")


def write_embed_folder(folder: Path, model: BertModel, tokenizer: BertTokenizer) -> None:
    """Write a sentence-transformers folder: BERT, then the mean over its tokens, then length one."""
    lengths = sorted(MATRYOSHKA_DIMENSIONS)
    # vLLM looks for the lengths in the configuration of the model.
    _write_bert(folder, model, tokenizer, is_matryoshka=True, matryoshka_dimensions=lengths)
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": f"{index}_{name}" if index else "",
            "type": f"sentence_transformers.models.{name}",
        }
        for index, name in enumerate(_MODULES)
    ]
    write_json(folder / "modules.json", modules)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": LONGEST_TEXT, "do_lower_case": False})
    write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine", "matryoshka_dims": lengths},
    )
    (folder / "1_Pooling").mkdir(exist_ok=True)
    pooling = {"word_embedding_dimension": model.config.hidden_size, "pooling_mode_mean_tokens": True}
    write_json(folder / "1_Pooling" / "config.json", pooling)


def write_rerank_folder(folder: Path, model: BertForSequenceClassification, tokenizer: BertTokenizer) -> None:
    """Write a cross-encoder's folder."""
    _write_bert(folder, model, tokenizer, id2label={"0": "relevance"}, label2id={"relevance": 0})


def golden_retrieval() -> dict[str, Any]:
    """Return the corpus, and the golden queries with the index of the document that must rank first."""
    queries = [{"query": query, "best": best} for query, best in golden_queries()]
    return {"corpus": documents(), "queries": queries}


def _write_bert(
    folder: Path, model: BertModel | BertForSequenceClassification, tokenizer: BertTokenizer, **more: Any
) -> None:
    """Write the weights, the shape and the tokenizer of a BERT."""
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder, model.state_dict())
    config = model.config
    shape = {
        "architectures": [type(model).__name__],
        "model_type": "bert",
        "attention_probs_dropout_prob": 0.0,
        "hidden_act": config.hidden_act,
        "hidden_dropout_prob": 0.0,
        "hidden_size": config.hidden_size,
        "initializer_range": config.initializer_range,
        "intermediate_size": config.intermediate_size,
        "layer_norm_eps": config.layer_norm_eps,
        "max_position_embeddings": config.max_position_embeddings,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "pad_token_id": config.pad_token_id,
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
        "type_vocab_size": config.type_vocab_size,
        "vocab_size": config.vocab_size,
    }
    write_json(folder / "config.json", shape | more)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    roles = {f"{role}_token": f"[{role.upper()}]" for role in ("cls", "mask", "pad", "sep", "unk")}
    lower_case = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "BertTokenizer", "model_max_length": LONGEST_TEXT} | roles | lower_case,
    )
