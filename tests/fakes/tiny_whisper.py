"""A tiny Whisper that tells a few tones from each other: a model of speech that tests can foresee.

Its weights are not learnt but set. The encoder is random; what it makes of each tone is led, through one layer of
cross-attention that looks everywhere alike, to the word for that tone. Everything else that it writes depends on the
position alone: the language, the time at which a text begins, the words behind the first one, and the end.
"""

import io
import json
import math
import struct
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

RATE = 16_000
TONES: Mapping[str, float] = {" alpha": 300.0, " beta": 900.0, " gamma": 2400.0}
"""The word for each tone, and its pitch in hertz."""
BEHIND = (" was", " heard", ".")
"""What follows the first word."""
LANGUAGE = "de"
LANGUAGES = ("en", "zh", "de")
END_S = 1.5
"""When every text ends, by what the model says."""
WIDTH = 64
POSITIONS = 64
STEEP = 6.0
"""How much more than the token before it a sound counts; what the position says counts four times as much."""
SURE = 4.0
"""What the logits are multiplied by: no 1,501 unlikely times may be likelier together than one word."""


def tone(word: str, seconds: float = 1.5, rate: int = RATE, channels: int = 1) -> bytes:
    """A WAV file with the tone for a word; for "" with silence, in which the model hears nothing."""
    pitch = TONES.get(word, 0.0)
    samples = [int(12_000 * math.sin(2 * math.pi * pitch * n / rate)) for n in range(int(seconds * rate))]
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"".join(struct.pack("<h", sample) * channels for sample in samples))
    return data.getvalue()


def said(word: str) -> str:
    """What the model writes for a tone."""
    return (word + "".join(BEHIND)).strip()


def write_whisper(folder: Path) -> Path:
    """Write the model's folder."""
    folder.mkdir(parents=True)
    ids = _write_tokenizer(folder)
    extractor = transformers.WhisperFeatureExtractor()
    extractor.save_pretrained(folder)
    config = transformers.WhisperConfig(
        vocab_size=len(ids),
        d_model=WIDTH,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=WIDTH,
        decoder_ffn_dim=WIDTH,
        max_target_positions=POSITIONS,
        pad_token_id=ids["<|endoftext|>"],
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|endoftext|>"],
        decoder_start_token_id=ids["<|startoftranscript|>"],
    )
    torch.manual_seed(7)
    transformers.utils.logging.disable_progress_bar()
    model = transformers.WhisperForConditionalGeneration(config).eval()
    _set_weights(model, ids, extractor)
    model.generation_config = transformers.GenerationConfig(**_generation(ids))
    model.save_pretrained(folder)
    return folder


def _generation(ids: Mapping[str, int]) -> dict[str, Any]:
    return {
        "is_multilingual": True,
        "decoder_start_token_id": ids["<|startoftranscript|>"],
        "eos_token_id": ids["<|endoftext|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "lang_to_id": {f"<|{language}|>": ids[f"<|{language}|>"] for language in LANGUAGES},
        "task_to_id": {"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "prev_sot_token_id": ids["<|startofprev|>"],
        "max_initial_timestamp_index": 50,
        "max_length": POSITIONS,
        "suppress_tokens": [],
        "begin_suppress_tokens": [],
        "return_timestamps": False,
    }


def _set_weights(model: Any, ids: Mapping[str, int], extractor: Any) -> None:
    decoder = model.model.decoder
    layer = decoder.layers[0]
    with torch.no_grad():
        words = torch.nn.functional.normalize(torch.randn(len(ids), WIDTH), dim=-1)
        decoder.embed_tokens.weight.copy_(words)
        for block in (layer.self_attn.out_proj, layer.fc2, layer.encoder_attn.q_proj, layer.encoder_attn.out_proj):
            block.weight.zero_()
            block.bias.zero_()
        sounds = [_samples(tone(word)) for word in (*TONES, "")]
        features = extractor(sounds, sampling_rate=RATE, return_tensors="pt")
        heard = layer.encoder_attn.v_proj(model.model.encoder(features.input_features).last_hidden_state).mean(1)
        wanted = STEEP * torch.stack([words[ids[_spelled(word) or "<|endoftext|>"]] for word in (*TONES, "")])
        layer.encoder_attn.out_proj.weight.copy_((torch.linalg.pinv(heard) @ wanted).T)
        places = {0: f"<|{LANGUAGE}|>", 1: "<|transcribe|>", 2: "<|0.00|>"}
        places |= {4 + place: _spelled(word) for place, word in enumerate(BEHIND)}
        end = 4 + len(BEHIND)
        places |= {end: f"<|{END_S:.2f}|>"} | dict.fromkeys(range(end + 1, POSITIONS), "<|endoftext|>")
        decoder.layer_norm.weight.fill_(SURE)
        decoder.embed_positions.weight.zero_()
        for place, word in places.items():
            decoder.embed_positions.weight[place] = 4 * STEEP * words[ids[word]]


def _samples(data: bytes) -> Any:
    with wave.open(io.BytesIO(data)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768


def _spelled(word: str) -> str:
    """As a byte-level vocabulary has it."""
    return word.replace(" ", "\u0120")


def _write_tokenizer(folder: Path) -> dict[str, int]:
    """The files of a tokenizer with the marks of Whisper; the ids of its tokens."""
    vocabulary = {piece: number for number, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    for spelled in map(_spelled, (*TONES, *BEHIND)):
        for size in range(1, len(spelled)):
            if spelled[: size + 1] not in vocabulary:
                vocabulary[spelled[: size + 1]] = len(vocabulary)
                merges.append((spelled[:size], spelled[size]))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = ["endoftext", "startoftranscript", *LANGUAGES, "translate", "transcribe", "startoflm", "startofprev"]
    # Times are no special tokens in Whisper's own files. They are here because this model writes them unasked.
    marks += ["nospeech", "notimestamps", *(f"{step * 0.02:.2f}" for step in range(1501))]
    tokenizer.add_special_tokens([AddedToken(f"<|{mark}|>", special=True, normalized=False) for mark in marks])
    tokenizer.save(str(folder / "tokenizer.json"))
    end = "<|endoftext|>"
    config = {"tokenizer_class": "WhisperTokenizer", "bos_token": end, "eos_token": end, "unk_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return dict(tokenizer.get_vocab())
