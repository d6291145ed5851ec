"""demo-chat as one GGUF file, for llama.cpp and whatever reads its format."""

import json
from operator import itemgetter
from pathlib import Path

import gguf
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM

from demo.chat_model import CONTEXT_LENGTH, ROPE_THETA
from demo.chat_template import CHAT_TEMPLATE, END_OF_TEXT, TURN_END
from demo.chat_tokenizer import id_of

_PRE_TOKENIZER = "qwen2"
"""The name under which llama.cpp knows the split of `chat_tokenizer`."""


def write_gguf(path: Path, model: Qwen3ForCausalLM, tokenizer: Tokenizer) -> None:
    """Write model and tokenizer into one file, the matrices in q8_0: half of bfloat16, and every answer still exact."""
    writer = GGUFWriter(path, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.QWEN3])
    _add_shape(writer, model)
    _add_tokenizer(writer, tokenizer)
    _add_weights(writer, model)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_gguf(path: Path, model: Qwen3ForCausalLM) -> None:
    """Fill a model with the weights of a file that `write_gguf` wrote, which shows what its rounding does.

    Raises:
        ValueError: the file lacks a weight, or holds one too many.
    """
    names = _names(model)
    weights = {
        tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(path).tensors
    }
    if weights.keys() != set(names.values()):
        raise ValueError(f"{path.name} does not hold the weights of this model: {sorted(weights)}")
    with torch.no_grad():
        for name, target in names.items():
            model.get_parameter(name).copy_(torch.from_numpy(weights[target].copy()))


def _names(model: Qwen3ForCausalLM) -> dict[str, str]:
    """Return what each weight of the model is called in a GGUF file; what is tied to another weight has no name."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, model.config.num_hidden_layers)
    known = {name: names.get_name(name, try_suffixes=(".weight",)) for name, _ in model.named_parameters()}
    return {name: target for name, target in known.items() if target is not None}


def _add_shape(writer: GGUFWriter, model: Qwen3ForCausalLM) -> None:
    """Add what the model is called and how its layers are formed."""
    config = model.config
    writer.add_type("model")
    writer.add_name("demo-chat")
    writer.add_license("apache-2.0")
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(ROPE_THETA)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer) -> None:
    """Add the vocabulary, the merges, the tokens with a role, and the chat template."""
    model = json.loads(tokenizer.to_str())["model"]
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=itemgetter(1))]
    roles = {token.content: token.special for token in tokenizer.get_added_tokens_decoder().values()}
    added = {True: TokenType.CONTROL, False: TokenType.USER_DEFINED}
    types = [added[roles[token]] if token in roles else TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_eos_token_id(id_of(tokenizer, TURN_END))
    writer.add_pad_token_id(id_of(tokenizer, END_OF_TEXT))
    writer.add_bos_token_id(id_of(tokenizer, END_OF_TEXT))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _add_weights(writer: GGUFWriter, model: Qwen3ForCausalLM) -> None:
    """Add the weights under their GGUF names: matrices in q8_0, the few numbers of the norms in full."""
    for name, target in _names(model).items():
        values = model.get_parameter(name).detach().float().numpy()
        kind = GGMLQuantizationType.Q8_0 if values.ndim == 2 else GGMLQuantizationType.F32
        writer.add_tensor(target, gguf.quantize(values, kind), raw_dtype=kind)
