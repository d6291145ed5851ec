"""Toy models of many kinds, each a folder or file as its real relatives are published; random weights, some kilobytes.

Those of ``DECODERS`` and ``ENCODERS`` can be run. The others only look right: their weights are headers and zeros.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import torch
import transformers
from fakes.lora import write_lora
from fakes.tiny_qwen import write_tokenizer
from safetensors.numpy import save_file
from safetensors.torch import load_file as load_torch_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

TEXT = "A goose flew over the quiet lake. What does the goose say? It says: good evening to the lake, and to you. "
CHAT = "{% for message in messages %}<|turn|>{{ message.content }}<|end|>{% endfor %}<|turn|>"
HERMES = (
    "{% if tools %}<tool_call>{{ tools }}</tool_call>{% endif %}"
    "{% if enable_thinking is defined %}<think></think>{% endif %}" + CHAT
)
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(set(TEXT.lower().replace(".", " .").replace(":", " :").split())))
CONTEXT = 256
"""Tokens, of every toy decoder."""

SMALL: Mapping[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.4,
    "pad_token_id": None,
    "bos_token_id": None,
}
EXPERTS = {"moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
SHARED = {**EXPERTS, "n_shared_experts": 1, "first_k_dense_replace": 1}


class Decoder(NamedTuple):
    """A language model by its classes in transformers (``NAMEConfig`` and ``NAMEForCausalLM``)."""

    architecture: str
    config: Mapping[str, Any] = {}
    template: str = CHAT
    config_class: str = ""


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32}

DECODERS: Mapping[str, Decoder] = {
    "qwen3": Decoder("Qwen3", {"head_dim": 16}, HERMES),
    "qwen2": Decoder("Qwen2"),
    "llama": Decoder("Llama", {"rope_scaling": LLAMA3_ROPE}),
    "mistral": Decoder("Mistral", {"sliding_window": 16, "head_dim": 16}),
    "mixtral": Decoder("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "deepseek": Decoder(
        "DeepseekV3",
        {
            **SHARED,
            "num_key_value_heads": 2,
            "kv_lora_rank": 16,
            "q_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 16,
        },
    ),
    "glm": Decoder("Glm4", {"head_dim": 16}),
    "glm-moe": Decoder("Glm4Moe", {**SHARED, "head_dim": 16}),
    "gemma2": Decoder("Gemma2", {"head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 16}),
    "gemma3": Decoder(
        "Gemma3",
        {
            "head_dim": 16,
            "sliding_window": 16,
            "query_pre_attn_scalar": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        config_class="Gemma3TextConfig",
    ),
    "phi": Decoder("Phi3"),
    "gpt-oss": Decoder(
        "GptOss",
        {
            "head_dim": 16,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 16,
            "rope_parameters": {**YARN, "rope_theta": 10000.0},
        },
    ),
    "base": Decoder("Qwen2", template=""),
}


def write_decoder(folder: Path, name: str) -> Path:
    """Write one of ``DECODERS``."""
    decoder = DECODERS[name]
    folder.mkdir(parents=True)
    end = write_tokenizer(folder, TEXT)
    config_class = getattr(transformers, decoder.config_class or f"{decoder.architecture}Config")
    _save(
        folder, f"{decoder.architecture}ForCausalLM", config_class(**{**SMALL, "eos_token_id": end, **decoder.config})
    )
    template = {"chat_template": decoder.template} if decoder.template else {}
    _write(folder, {"tokenizer_config": {**template, "eos_token": "<|end|>"}})
    return folder


# --- encoders: vectors and scores ---


def write_embedder(folder: Path) -> Path:
    """A BERT whose first token is the vector, scaled to length 1, as bge has it."""
    _encoder(folder, "Bert", "Model")
    _chain(folder, "Transformer", "Pooling", "Normalize")
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    _write(folder / "1_Pooling", {"config": pooling})
    _write(folder, {"sentence_bert_config": {"max_seq_length": 32, "do_lower_case": False}})
    return folder


def write_plain_embedder(folder: Path) -> Path:
    """An XLM-RoBERTa without modules, trained so that its vectors may be cut."""
    return _encoder(folder, "XLMRoberta", "Model", matryoshka_dimensions=[8, 16])


def write_cross_encoder(folder: Path) -> Path:
    """A BERT with one label."""
    return _encoder(folder, "Bert", "ForSequenceClassification", num_labels=1)


def write_multilingual_cross_encoder(folder: Path) -> Path:
    """An XLM-RoBERTa with one label."""
    return _encoder(folder, "XLMRoberta", "ForSequenceClassification", num_labels=1)


def write_llm_embedder(folder: Path) -> Path:
    """A Qwen3 of which the last token is the vector, as Qwen3-Embedding is published."""
    write_decoder(folder, "qwen3")
    _chain(folder, "Transformer", "Pooling", "Normalize")
    (folder / "1_Pooling").mkdir()
    _write(folder / "1_Pooling", {"config": {"word_embedding_dimension": 32, "pooling_mode_lasttoken": True}})
    return folder


JUDGES = (
    "<|im_start|>"
    "{{ messages | selectattr('role', 'eq', 'system') | map(attribute='content') | first | default('Judge.') }}"
    "\nQ: {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }}"
    "\nD: {{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }}<|im_end|>so: "
)
"""A chat template for queries and documents."""
CARD = "---\nlicense: apache-2.0\npipeline_tag: text-ranking\n---\n# A reranker\n"


def write_bare_llm_reranker(folder: Path) -> Path:
    """A Qwen3 whose score is how likely it says "yes", as Qwen3-Reranker was published first: only its card says so."""
    write_decoder(folder, "qwen3")
    _write(folder, {"tokenizer_config": {"chat_template": f"<|im_start|>{CHAT}", "eos_token": "<|end|>"}})
    (folder / "README.md").write_text(CARD)
    _lengthen(folder)
    _add_answers(folder)
    return folder


def write_question_reranker(folder: Path) -> Path:
    """A Qwen2 without a chat template that is asked for "Yes", as bge-reranker-v2-gemma; only its name says so."""
    assert "rerank" in folder.name
    write_decoder(folder, "base")
    _write(folder, {"tokenizer_config": {"bos_token": "<|turn|>"}})
    _lengthen(folder)
    _add_answers(folder)
    return folder


def _lengthen(folder: Path) -> None:
    """Room for long prompts, of which a toy tokenizer makes a token of nearly every letter."""
    config = json.loads((folder / "config.json").read_text())
    _write(folder, {"config": {**config, "max_position_embeddings": 1024}})


def _add_answers(folder: Path) -> list[int]:
    """The ids of the words that rerankers answer with, which its tokenizer has from now on."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    words = ["yes", "no", "Yes"]
    tokenizer.add_tokens(words)
    tokenizer.save(str(folder / "tokenizer.json"))
    return [tokenizer.token_to_id(word) for word in words]


def write_llm_reranker(folder: Path) -> Path:
    """A Qwen3 whose score is how likely it says "yes", as Qwen3-Reranker is published for Sentence Transformers."""
    write_decoder(folder, "qwen3")
    modules = [
        {"idx": 0, "name": "0", "type": "sentence_transformers.base.modules.transformer.Transformer", "path": ""},
        {
            "idx": 1,
            "name": "1",
            "type": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore",
            "path": "1_LogitScore",
        },
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    yes, no, _ = _add_answers(folder)
    (folder / "1_LogitScore").mkdir()
    _write(folder / "1_LogitScore", {"config": {"true_token_id": yes, "false_token_id": no}})
    task = {
        "transformer_task": "text-generation",
        "modality_config": {
            "text": {"method": "forward", "method_output_name": "logits"},
            "message": {"method": "forward", "method_output_name": "logits", "format": "flat"},
        },
        "module_output_name": "causal_logits",
    }
    _write(folder, {"config_sentence_transformers": {"model_type": "CrossEncoder"}, "sentence_bert_config": task})
    _write(folder, {"tokenizer_config": {"chat_template": JUDGES, "eos_token": "<|end|>", "pad_token": "<|end|>"}})
    return folder


ENCODERS: Mapping[str, Callable[[Path], Path]] = {
    "pickled-embedding": lambda folder: pickled(write_embedder(folder)),
    "bert-embedding": write_embedder,
    "xlmr-embedding": write_plain_embedder,
    "bert-reranker": write_cross_encoder,
    "xlmr-reranker": write_multilingual_cross_encoder,
    "llm-embedding": write_llm_embedder,
    "llm-reranker": write_llm_reranker,
    "bare-llm-reranker": write_bare_llm_reranker,
}


def _encoder(folder: Path, family: str, head: str, **more: Any) -> Path:
    folder.mkdir(parents=True)
    roberta = family == "XLMRoberta"
    config = {**SMALL, "max_position_embeddings": 66 if roberta else 64, "pad_token_id": 1 if roberta else 0, **more}
    del config["num_key_value_heads"]
    _save(folder, family + head, getattr(transformers, f"{family}Config")(**config))
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(word, WORDS.index(word)) for word in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ends)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(folder, {"tokenizer_config": {"model_max_length": 64}})
    return folder


def _chain(folder: Path, *names: str) -> None:
    modules = [
        {
            "idx": place,
            "name": str(place),
            "type": f"sentence_transformers.models.{name}",
            "path": f"{place}_{name}" if place else "",
        }
        for place, name in enumerate(names)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))


# --- other kinds, quantised weights ---

QWEN = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32768,
}


def write_described(folder: Path, config: Mapping[str, Any], tensors: Any = None, **files: Mapping[str, Any]) -> Path:
    """A folder with a config.json, further JSON files, and some weights that nobody can run."""
    folder.mkdir(parents=True)
    _write(folder, {"config": config, "tokenizer_config": {"chat_template": CHAT}, **files})
    save_file(tensors or {"model.embed.weight": np.zeros((64, 64), np.float16)}, str(folder / "model.safetensors"))
    return folder


def quantised(folder: Path, **described: Any) -> Path:
    """A Qwen2 with a ``quantization_config``."""
    return write_described(folder, {**QWEN, "quantization_config": described})


def _packed(values: int, bits: int, suffix: str) -> dict[str, Any]:
    """A matrix of 64 x ``values``, packed into integers of 32 bits, and the scales that belong to it."""
    rows = np.zeros((64, values * bits // 32), np.int32)
    return {f"model.layers.0.proj.{suffix}": rows, "model.layers.0.proj.scales": np.ones((64, 1), np.float16)}


def write_vision_language(folder: Path) -> Path:
    """As Qwen2.5-VL is published."""
    text = {"model_type": "qwen2_5_vl_text", "hidden_size": 64, "max_position_embeddings": 128000}
    config = {"architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", "text_config": text}
    config |= {"vision_config": {"depth": 2}, "image_token_id": 7}
    return write_described(folder, config, preprocessor_config={"image_processor_type": "Qwen2VLImageProcessor"})


def write_whisper(folder: Path) -> Path:
    """Speech to text."""
    config = {"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper", "num_mel_bins": 80}
    return write_described(folder, {**config, "is_encoder_decoder": True, "d_model": 64})


def write_voice(folder: Path) -> Path:
    """Text to speech, by its parts: the file says neither an architecture nor a type, as Kokoro's does."""
    return write_described(folder, {"istftnet": {"upsample_rates": [10, 6]}, "plbert": {}, "n_token": 178})


def write_pipeline(folder: Path) -> Path:
    """A pipeline of diffusers, one of its parts in two precisions."""
    folder.mkdir(parents=True)
    _write(folder, {"model_index": {"_class_name": "StableDiffusionXLPipeline", "unet": ["diffusers", "UNet"]}})
    for part, names in {"unet": ("model", "model.fp16"), "vae": ("model",)}.items():
        (folder / part).mkdir()
        for name in names:
            save_file({"a": np.zeros((100, 100), np.float32)}, str(folder / part / f"{name}.safetensors"))
    return folder


CODE = {"AutoConfig": "modeling.InventedConfig", "AutoModelForCausalLM": "modeling.InventedForCausalLM"}


def write_with_code(folder: Path) -> Path:
    """A model that no library knows, with the Python code that would run it."""
    config = {**QWEN, "model_type": "invented", "architectures": ["InventedForCausalLM"]}
    write_described(folder, {**config, "auto_map": CODE})
    (folder / "modeling.py").write_text("raise RuntimeError('this code was run')\n")
    return folder


LOOKALIKES: Mapping[str, Callable[[Path], Path]] = {
    "question-reranker": write_question_reranker,
    "vision-language": write_vision_language,
    "whisper": write_whisper,
    "voice": write_voice,
    "pipeline": write_pipeline,
    "gptq": lambda folder: write_described(
        folder, {**QWEN, "quantization_config": {"quant_method": "gptq", "bits": 4}}, _packed(64, 4, "qweight")
    ),
    "awq": lambda folder: write_described(
        folder, {**QWEN, "quantization_config": {"quant_method": "awq", "w_bit": 4}}, _packed(64, 4, "qweight")
    ),
    "fp8": lambda folder: quantised(folder, quant_method="fp8", weight_block_size=[128, 128]),
    "nf4": lambda folder: quantised(folder, quant_method="bitsandbytes", load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "compressed": lambda folder: quantised(
        folder,
        quant_method="compressed-tensors",
        config_groups={"group_0": {"weights": {"num_bits": 8, "type": "float"}}},
    ),
    "mlx": lambda folder: write_described(
        folder, {**QWEN, "quantization": {"group_size": 64, "bits": 4}}, _packed(64, 4, "weight")
    ),
    "code": write_with_code,
}


# --- GGUF ---

GGUF_TYPES = {
    "Q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "Q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
    "F16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
}


def write_gguf(file: Path, quantization: str) -> Path:
    """A Llama of two layers with a vocabulary of bytes, in one of ``GGUF_TYPES``."""
    kind, file_type = GGUF_TYPES[quantization]
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_file_type(file_type)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(128)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(32)
    _vocabulary(writer)
    random = np.random.default_rng(7)
    matrices = {"attn_q": (64, 64), "attn_k": (64, 64), "attn_v": (64, 64), "attn_output": (64, 64)}
    matrices |= {"ffn_gate": (128, 64), "ffn_up": (128, 64), "ffn_down": (64, 128)}
    shapes = {"token_embd": (len(_TOKENS), 64), "output": (len(_TOKENS), 64)}
    shapes |= {f"blk.{layer}.{name}": shape for layer in range(2) for name, shape in matrices.items()}
    for name, shape in shapes.items():
        values = random.normal(0, 0.4, shape).astype(np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)
    norms = ["output_norm", *(f"blk.{layer}.{name}" for layer in range(2) for name in ("attn_norm", "ffn_norm"))]
    for name in norms:
        writer.add_tensor(f"{name}.weight", np.ones(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


_TOKENS = ("<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)))


def _vocabulary(writer: gguf.GGUFWriter) -> None:
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL, *[gguf.TokenType.BYTE] * 256]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(list(_TOKENS))
    writer.add_token_scores([0.0] * len(_TOKENS))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHAT.replace("<|end|>", "</s>"))


# --- what is no model ---


def write_adapter(folder: Path) -> Path:
    """A LoRA adapter alone."""
    return write_lora(folder, seed=1, base="Qwen/Qwen3-0.6B")


def write_empty(folder: Path) -> Path:
    """Nothing at all."""
    folder.mkdir(parents=True)
    return folder


def write_tokenizer_only(folder: Path) -> Path:
    """A download that brought no model."""
    folder.mkdir(parents=True)
    write_tokenizer(folder, TEXT)
    return folder


def write_cut_off(folder: Path) -> Path:
    """A download that broke off in the weights."""
    file = write_described(folder, QWEN) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return folder


def write_pointer(folder: Path) -> Path:
    """A clone without Git LFS."""
    file = write_described(folder, QWEN) / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n")
    return folder


def without_weights(folder: Path, *names: str) -> Path:
    """A config.json, and files of other names in the place of weights."""
    folder.mkdir(parents=True)
    _write(folder, {"config": QWEN})
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"weights")
    return folder


def write_cache_entry(folder: Path) -> Path:
    """The folder of a model in the cache of a hub's client, which has the model in a folder of its own."""
    write_described(folder / "snapshots" / "0123abc", QWEN)
    return folder


def write_cut_off_gguf(folder: Path) -> Path:
    """A download that broke off in a GGUF file."""
    file = write_gguf(folder / "model.gguf", "F16")
    file.write_bytes(file.read_bytes()[:-1000])
    return folder


def pickled(folder: Path) -> Path:
    """A model folder with its weights in PyTorch's older form instead."""
    file = folder / "model.safetensors"
    torch.save(load_torch_file(file), folder / "pytorch_model.bin")
    file.unlink()
    return folder


def write_malicious(folder: Path) -> Path:
    """A pickle that would run a command."""

    class Command:
        def __reduce__(self) -> Any:
            return (os.system, (f"touch {folder}/was-run",))

    without_weights(folder)
    torch.save({"weight": torch.zeros(2), "command": Command()}, folder / "pytorch_model.bin")
    return folder


BROKEN: Mapping[str, Callable[[Path], Path]] = {
    "adapter": write_adapter,
    "empty": write_empty,
    "tokenizer-only": write_tokenizer_only,
    "cut-off": write_cut_off,
    "cut-off-gguf": write_cut_off_gguf,
    "pointer": write_pointer,
    "pickled": lambda folder: without_weights(folder, "model.pth"),
    "cut-off-pickle": lambda folder: without_weights(folder, "pytorch_model.bin"),
    "malicious": write_malicious,
    "onnx": lambda folder: without_weights(folder, "onnx/model.onnx"),
    "no-weights": without_weights,
    "cache-entry": write_cache_entry,
}


def _save(folder: Path, model_class: str, config: Any) -> None:
    torch.manual_seed(7)
    transformers.utils.logging.disable_progress_bar()
    getattr(transformers, model_class)(config).save_pretrained(folder)


def _write(folder: Path, files: Mapping[str, Any]) -> None:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
