"""Reading a model's folder: what its parts are, and whether ``native`` can run them. Pure: JSON in, a plan out.

The native way covers the standard chain (Transformer, Pooling, any Dense, Normalize) over BERT, RoBERTa and
XLM-RoBERTa encoders. ``NotNative`` says why a folder is something else; the library runs it then.
"""

from pathlib import Path
from typing import Any

import msgspec

POSITION_OFFSET = {"bert": 0, "roberta": 2, "xlm-roberta": 2}
"""Architectures that ``native`` has, and the position of their first token (RoBERTa's follows the padding id)."""

CLASSIFIERS = {
    "BertForSequenceClassification": "bert",
    "RobertaForSequenceClassification": "roberta",
    "XLMRobertaForSequenceClassification": "xlm-roberta",
}

_EXPECTED = {
    "auto_map": None,
    "is_decoder": False,
    "add_cross_attention": False,
    "position_embedding_type": "absolute",
    "quantization_config": None,
}
"""Settings of an encoder, each with the only value that ``native`` knows."""

ACTIVATIONS = frozenset({"gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu"})

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")

_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""How older folders write the pooling; the order is that of concatenation when several are on."""

_NAMES = ("input_ids", "token_type_ids", "attention_mask")
"""What a tokenizer gives to a model when its settings say nothing."""

_PLAIN_SETTINGS = frozenset(
    {"max_seq_length", "do_lower_case", "transformer_task", "modality_config", "module_output_name"}
)
"""Settings of a Transformer module that ``native`` follows, or that say what is the case anyway."""

UNBOUNDED = 1_000_000
"""Tokenizer files write an absurd number for "no limit"."""


class NotNative(Exception):
    """The folder holds something that only the library knows to run; the text says what."""


class EncoderPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of a BERT-like encoder."""

    architecture: str
    layers: int
    heads: int
    hidden: int
    activation: str
    norm_eps: float
    positions: int
    """Rows of the table of positions; ``position_offset`` of them are never used."""
    position_offset: int


class PoolingPlan(msgspec.Struct, frozen=True):
    """How the vectors of tokens become one; several modes are concatenated."""

    modes: tuple[str, ...] = ("mean",)
    include_prompt: bool = True


class DensePlan(msgspec.Struct, frozen=True):
    """A linear layer after the pooling."""

    folder: str
    activation: str
    """The name of a class in ``torch.nn``."""


class NormalizePlan(msgspec.Struct, frozen=True):
    """Scale to unit length."""


Step = DensePlan | NormalizePlan


class TokenizerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Where the tokenizer is and how it cuts."""

    path: Path
    lower_case: bool = False
    types: bool = False
    """Whether the tokens of a pair's second text are of type 1."""
    truncation_side: str = "right"


class EmbeddingPlan(msgspec.Struct, frozen=True, kw_only=True):
    """An embedding model that ``native`` can run."""

    encoder: EncoderPlan
    tokenizer: TokenizerPlan
    pooling: PoolingPlan
    steps: tuple[Step, ...]
    max_length: int


class RerankPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A cross-encoder that ``native`` can run."""

    encoder: EncoderPlan
    tokenizer: TokenizerPlan
    sigmoid: bool
    """Whether scores pass through a sigmoid."""
    max_length: int


class Prompts(msgspec.Struct, frozen=True):
    """The texts that a model wants before its inputs."""

    named: dict[str, str]
    default: str = ""


class ModelFolder:
    """The JSON files of a model's folder.

    Raises:
        ValueError: there is no model in the folder, or one of the files is not JSON.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.config = self._read("config.json")
        self.settings = self._read("config_sentence_transformers.json")
        self.modules: list[dict[str, Any]] = self._read("modules.json") or []
        if not self.config and not self.modules:
            raise ValueError(f"{path} is no model's folder: it has neither a config.json nor a modules.json")

    def _read(self, name: str) -> Any:
        """What is in a file; nothing when it is not there."""
        file = self.path / name
        if not file.is_file():
            return {}
        try:
            return msgspec.json.decode(file.read_bytes())
        except msgspec.DecodeError as error:
            raise ValueError(f"{file} is not valid JSON: {error}") from None

    @property
    def prompts(self) -> Prompts:
        """Prompts by name, and the one that applies when nothing is said."""
        named = {name: text for name, text in (self.settings.get("prompts") or {}).items() if text is not None}
        return Prompts(named, named.get(self.settings.get("default_prompt_name") or "", ""))

    @property
    def matryoshka_dims(self) -> tuple[int, ...]:
        """The sizes that the folder says its vectors may be cut to."""
        return tuple(self.config.get("matryoshka_dimensions") or ())

    @property
    def is_matryoshka(self) -> bool:
        """Whether the folder says that its vectors may be cut to any size."""
        return bool(self.config.get("is_matryoshka"))

    def embedding_plan(self, pooling: str | None = None, *, normalize: bool | None = None) -> EmbeddingPlan:
        """How to run it as an embedding model. ``pooling`` and ``normalize`` replace what the folder says.

        Raises:
            NotNative: only the library can run it.
        """
        encoder = self._encoder()
        read, steps = self._chain()
        if normalize is not None:
            steps = tuple(step for step in steps if not isinstance(step, NormalizePlan))
            steps += (NormalizePlan(),) * normalize
        return EmbeddingPlan(
            encoder=encoder,
            tokenizer=self._tokenizer(),
            pooling=PoolingPlan((pooling,), read.include_prompt) if pooling else read,
            steps=steps,
            max_length=self._max_length(encoder),
        )

    def rerank_plan(self) -> RerankPlan:
        """How to run it as a cross-encoder.

        Raises:
            NotNative: only the library can run it.
        """
        encoder = self._encoder()
        named = (self.config.get("architectures") or ["none"])[0]
        if CLASSIFIERS.get(named) != encoder.architecture:
            raise NotNative(f"its architecture is {named}")
        if self.label_count != 1:
            raise NotNative(f"it has {self.label_count} labels")
        if len(self.modules) > 1 or self.prompts.default:
            raise NotNative("it is more than a classifier")
        return RerankPlan(
            encoder=encoder, tokenizer=self._tokenizer(), sigmoid=self._sigmoid(), max_length=self._max_length(encoder)
        )

    @property
    def label_count(self) -> int:
        """Labels of a classifier; two when the folder does not say, as transformers has it."""
        return int(self.config.get("num_labels") or len(self.config.get("id2label") or (0, 1)))

    def _encoder(self) -> EncoderPlan:
        config = self.config
        architecture = config.get("model_type", "unknown")
        if architecture not in POSITION_OFFSET:
            raise NotNative(f"its architecture is {architecture}")
        for name, value in _EXPECTED.items():
            if config.get(name, value) != value:
                raise NotNative(f"its {name} is {config[name]!r}")
        if config.get("hidden_act", "gelu") not in ACTIVATIONS:
            raise NotNative(f"its activation is {config['hidden_act']!r}")
        offset = POSITION_OFFSET[architecture]
        if offset and config.get("pad_token_id", 1) != 1:
            raise NotNative("its padding id is not 1")
        if (self.path / "adapter_config.json").exists():
            raise NotNative("it has an adapter")
        return EncoderPlan(
            architecture=architecture,
            layers=config.get("num_hidden_layers", 12),
            heads=config.get("num_attention_heads", 12),
            hidden=config.get("hidden_size", 768),
            activation=config.get("hidden_act", "gelu"),
            norm_eps=config.get("layer_norm_eps", 1e-12),
            positions=config.get("max_position_embeddings", 512),
            position_offset=offset,
        )

    def _chain(self) -> tuple[PoolingPlan, tuple[Step, ...]]:
        """Pooling and what follows it, as modules.json lists them; a plain transformer gets mean pooling."""
        if not self.modules:
            return PoolingPlan(), ()
        kinds = [str(module["type"]) for module in self.modules]
        names = [kind.rpartition(".")[2] if kind.startswith("sentence_transformers.") else kind for kind in kinds]
        if names[:2] != ["Transformer", "Pooling"] or self.modules[0].get("path"):
            raise NotNative(f"its modules are {', '.join(names)}")
        pooling = self._pooling(self.modules[1]["path"])
        return pooling, tuple(self._step(n, module) for n, module in zip(names[2:], self.modules[2:], strict=True))

    def _pooling(self, folder: str) -> PoolingPlan:
        config = self._read(f"{folder}/config.json")
        modes = config.get("pooling_mode")
        if modes is None:
            modes = [mode for flag, mode in _POOLING_FLAGS.items() if config.get(flag)] or ["mean"]
        modes = (modes,) if isinstance(modes, str) else tuple(modes)
        if unknown := set(modes) - set(POOLINGS):
            raise NotNative(f"its pooling is {unknown.pop()}")
        return PoolingPlan(modes, config.get("include_prompt", True))

    def _step(self, name: str, module: dict[str, Any]) -> Step:
        if name == "Normalize":
            return NormalizePlan()
        if name != "Dense":
            raise NotNative(f"it has a module {name}")
        config = self._read(f"{module['path']}/config.json")
        package, _, activation = config.get("activation_function", "torch.nn.modules.activation.Tanh").rpartition(".")
        names = {config.get(key, "sentence_embedding") for key in ("module_input_name", "module_output_name")}
        if config.get("use_residual") or names - {"sentence_embedding", None} or not package.startswith("torch.nn."):
            raise NotNative("it has a special Dense module")
        return DensePlan(module["path"], activation)

    def _tokenizer(self) -> TokenizerPlan:
        settings = self._read("tokenizer_config.json")
        path = self.path / "tokenizer.json"
        if not path.is_file():
            raise NotNative("it has no tokenizer.json")
        if self.config["model_type"] == "bert":
            self._check_bert_tokenizer(settings)
        return TokenizerPlan(
            path=path,
            types=self.config["model_type"] == "bert" and "token_type_ids" in settings.get("model_input_names", _NAMES),
            lower_case=bool(self._transformer_settings().get("do_lower_case")),
            truncation_side=settings.get("truncation_side", "right"),
        )

    def _check_bert_tokenizer(self, settings: dict[str, Any]) -> None:
        """The library builds BERT's normalizer from tokenizer_config.json; go on only if tokenizer.json agrees."""
        if settings.get("tokenizer_class", "BertTokenizer") not in {"BertTokenizer", "BertTokenizerFast"}:
            return
        normalizer = self._read("tokenizer.json").get("normalizer") or {}
        asked = {
            "type": "BertNormalizer",
            "lowercase": settings.get("do_lower_case", True),
            "strip_accents": settings.get("strip_accents"),
            "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
        }
        for name, value in asked.items():
            if normalizer.get(name) != value:
                raise NotNative(f"tokenizer.json and tokenizer_config.json disagree about {name}")

    def _transformer_settings(self) -> dict[str, Any]:
        """What the library saved about its Transformer module; only a folder with modules.json has it read."""
        if not self.modules:
            return {}
        settings: dict[str, Any] = self._read("sentence_bert_config.json")
        if special := {name for name, value in settings.items() if value and name not in _PLAIN_SETTINGS}:
            raise NotNative(f"its Transformer module sets {special.pop()}")
        if set(settings.get("modality_config", ("text",))) != {"text"}:
            raise NotNative("its inputs are more than text")
        return settings

    def _max_length(self, encoder: EncoderPlan) -> int:
        """The longest input in tokens: what the folder says, bounded by the positions that the encoder has."""
        asked = self._transformer_settings().get("max_seq_length")
        if asked is None:
            asked = self._read("tokenizer_config.json").get("model_max_length") or UNBOUNDED
        return int(min(asked, encoder.positions - encoder.position_offset))

    def _sigmoid(self) -> bool:
        """The activation that the folder names; without one a single label gets a sigmoid."""
        nested = self.config.get("sentence_transformers") or {}
        path = (
            (self.modules and self.settings.get("activation_fn"))
            or nested.get("activation_fn")
            or self.config.get("sbert_ce_default_activation_function")
            or "torch.nn.modules.activation.Sigmoid"
        )
        name = path.rpartition(".")[2]
        if not path.startswith("torch.nn.") or name not in {"Sigmoid", "Identity"}:
            raise NotNative(f"its activation is {path}")
        return bool(name == "Sigmoid")
