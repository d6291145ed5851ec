"""What a model folder is for, told from what its files say about the model's parts. No list of model families.

The suffix of an architecture's name says what its head computes ("ForCausalLM", "ForSequenceClassification"); the other
keys say what goes in: a part for images, or features of sound.
"""

from collections.abc import Iterable

from xinfer.catalog.folder import Folder
from xinfer.errors import InvalidRequest
from xinfer.generation.dialects import reasoning_dialect, tool_dialect
from xinfer.ops import GENERATIVE_KINDS, Kind

GENERATIVE = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
TRANSCRIBING = ("ForCTC", "ForSpeechSeq2Seq", "ForTDT", "ForRNNT")
SPEAKING = ("TTS", "TextToSpeech", "TextToWaveform", "TextToSpectrogram")
SPEAKING_PARTS = ("vocoder", "vocoder_config", "istftnet", "codec_config", "upsample_rates")
"""Parts that make a waveform."""
SEEING_PARTS = ("vision_config", "visual", "vision_tower", "mm_vision_tower", "image_token_id", "image_token_index")
HEARING_PARTS = ("audio_config", "audio_token_id", "audio_token_index")
REASONING_MARKS = ("enable_thinking", "reasoning_content", "<think>")
RANKING_TASK, RANKING_WORD = "text-ranking", "rerank"
"""What a model card says of a reranker, and what is part of the names of all."""
SCORING_MODULE = "LogitScore"
"""It makes a reranker of a language model: the score is how likely that answers "yes"."""


def kind_of(folder: Folder, source: str = "") -> Kind:
    """What the model is for.

    Args:
        folder: its files.
        source: where they come from. A reranker that is a language model by all its files may say so by its name only.

    Raises:
        InvalidRequest: it cannot be told, or is nothing that is served; says what the files say.
    """
    if any(module.name == "Pooling" for module in folder.modules):
        return Kind.EMBEDDING
    found = _classifier(folder) or _judge(folder, source) or _of_sound(folder) or _of_text(folder)
    if found is None:
        raise InvalidRequest(
            f"{folder.path} has the architectures {', '.join(folder.architectures) or 'none'}, of which it cannot be "
            "told whether it is a language, embedding or rerank model; say it with model_type "
            "(xinfer launch PATH --model-type embedding)",
            param="model_path",
        )
    return found


def _of_sound(folder: Folder) -> Kind | None:
    if _speaks(folder):
        return Kind.SPEECH_SYNTHESIS
    writes = folder.config.get("is_encoder_decoder") and _ends(folder, GENERATIVE) and _only_hears(folder)
    return Kind.SPEECH_RECOGNITION if writes or _ends(folder, TRANSCRIBING) else None


def _of_text(folder: Folder) -> Kind | None:
    if _ends(folder, GENERATIVE):
        return Kind.VISION_LANGUAGE if sees(folder) else Kind.LLM
    if _ends(folder, "Model") and not (sees(folder) or hears(folder)):
        return Kind.EMBEDDING
    return None


def _ends(folder: Folder, suffixes: str | tuple[str, ...]) -> bool:
    return any(name.endswith(suffixes) for name in folder.architectures)


def _classifier(folder: Folder) -> Kind | None:
    config = folder.config
    if not _ends(folder, "ForSequenceClassification"):
        return Kind.RERANK if _scores(folder) else None
    named, counted = config.get("id2label"), config.get("num_labels")
    labels = (len(named) if isinstance(named, dict) else 0) or (counted if isinstance(counted, int) else 0) or 2
    if labels == 1 or config.get("classifier_from_token"):  # two tokens of a vocabulary, made into one score
        return Kind.RERANK
    raise InvalidRequest(
        f"{folder.path} is a classifier of {labels} classes; a rerank model has one", param="model_path"
    )


def _scores(folder: Folder) -> bool:
    scoring = any(module.name == SCORING_MODULE for module in folder.modules)
    return scoring or folder.settings.get("model_type") == "CrossEncoder"


def _judge(folder: Folder, source: str) -> Kind | None:
    """A language model that was trained to rerank, by what its publisher says about it."""
    called = f"{source.rstrip('/').rpartition('/')[2]} {folder.path.name}".lower()
    is_said = folder.task == RANKING_TASK or RANKING_WORD in called
    return Kind.RERANK if is_said and _ends(folder, GENERATIVE) and not sees(folder) else None


def _speaks(folder: Folder) -> bool:
    named = any(mark in name for name in folder.architectures for mark in SPEAKING)
    return named or any(part in folder.config for part in SPEAKING_PARTS)


def _only_hears(folder: Folder) -> bool:
    takes_sound = bool(folder.preprocessor.get("feature_extractor_type")) or "num_mel_bins" in folder.config
    return takes_sound and "text_config" not in folder.config and not sees(folder)


def sees(folder: Folder) -> bool:
    """Whether images go in."""
    return _has_one_of(folder, SEEING_PARTS) or bool(folder.preprocessor.get("image_processor_type"))


def hears(folder: Folder) -> bool:
    """Whether sounds go in."""
    return _has_one_of(folder, HEARING_PARTS)


def _has_one_of(folder: Folder, parts: Iterable[str]) -> bool:
    return any(folder.config.get(part) not in (None, False) for part in parts)


def abilities(kind: Kind, template: str, *, hearing: bool = False) -> tuple[str, ...]:
    """What a model can be asked for; of language models by their chat template. Those without one complete text."""
    fixed = {
        Kind.EMBEDDING: ("embed",),
        Kind.RERANK: ("rerank",),
        Kind.SPEECH_RECOGNITION: ("transcribe",),
        Kind.SPEECH_SYNTHESIS: ("speak",),
        Kind.IMAGE: ("text2image",),
    }.get(kind)
    if fixed:
        return fixed
    found = ["generate"]
    if template:
        found.append("chat")
        found += ["tools"] * ("tools" in template)
        found += ["reasoning"] * _reasons(template)
    found += ["vision"] * (kind is Kind.VISION_LANGUAGE)
    found += ["audio"] * hearing
    return tuple(found)


def _reasons(template: str) -> bool:
    return reasoning_dialect(template) is not None or any(mark in template for mark in REASONING_MARKS)


def tool_parser(kind: Kind, template: str) -> str:
    """The form of tool calls, as ``ModelSpec.tool_parser``."""
    return str(tool_dialect(template) or "") if kind in GENERATIVE_KINDS else ""


def reasoning_parser(kind: Kind, template: str) -> str:
    """The form of thoughts, as ``ModelSpec.reasoning_parser``."""
    return str(reasoning_dialect(template) or "") if kind in GENERATIVE_KINDS else ""
