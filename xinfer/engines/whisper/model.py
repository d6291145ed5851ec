"""The model: the encoder once per window, the decoder token by token. Imports torch: only in a replica's process."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import transformers
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from xinfer.engines.token_engine.model_folder import read_json
from xinfer.engines.transformers_library import cache_argument
from xinfer.engines.whisper.marks import Marks, Span, read_marks
from xinfer.engines.whisper.recordings import RATE, Samples

WINDOW_S = 30
WINDOW = WINDOW_S * RATE
"""Samples that the model hears at once."""


class WhisperModel:
    """A loaded model. Belongs to one thread.

    Args:
        folder: the model's.
        device: where it computes.
        dtype: in what; "auto" as it is stored, but on a CPU float32.
    """

    def __init__(self, folder: Path, device: torch.device, dtype: str) -> None:
        transformers.utils.logging.disable_progress_bar()
        wanted = "float32" if dtype == "auto" and device.type == "cpu" else dtype
        read = transformers.WhisperForConditionalGeneration.from_pretrained
        self._model = read(folder, dtype=wanted, local_files_only=True).to(device).eval()
        self._cache_argument = cache_argument(self._model)
        self._extract = transformers.WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._device = device
        config = self._model.config
        self._length: int = config.max_target_positions
        generation = {**config.to_diff_dict(), **read_json(folder / "generation_config.json")}
        vocabulary = self._tokenizer.get_vocab()
        self.marks: Marks = read_marks(generation, vocabulary.get, self._tokenizer.eos_token_id)
        never = [token for token in self.marks.suppressed if 0 <= token < config.vocab_size]
        first = [token for token in self.marks.suppressed_first if 0 <= token < config.vocab_size]
        self._never = torch.tensor(never, dtype=torch.long, device=device)
        self._not_first = torch.tensor(first, dtype=torch.long, device=device)

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text of tokens that are text."""
        text: str = self._tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)
        return text

    def tokens_of(self, text: str) -> list[int]:
        """A text as tokens, without any mark: what looks like one in it stays text."""
        ids: list[int] = self._tokenizer.encode(f" {text.strip()}", add_special_tokens=False, split_special_tokens=True)
        return ids

    @property
    def room_before(self) -> int:
        """Tokens of what was said earlier that a prompt may have: half of what the decoder reads is for the answer."""
        return self._length // 2 - 1

    def listen(self, samples: Samples) -> "Window":
        """What the model makes of up to ``WINDOW`` samples."""
        features = self._extract(samples, sampling_rate=RATE, return_tensors="pt").input_features
        with torch.inference_mode():
            encoded = self._model.model.encoder(features.to(self._device, self._model.dtype)).last_hidden_state
        return Window(self, BaseModelOutput(last_hidden_state=encoded))

    def step(self, window: "Window", tokens: Sequence[int], cache: EncoderDecoderCache) -> torch.Tensor:
        """The logits behind the last of the tokens."""
        with torch.inference_mode():
            found = self._model(
                decoder_input_ids=torch.tensor([list(tokens)], device=self._device),
                encoder_outputs=window.encoded,
                use_cache=True,
                **{self._cache_argument: cache},
            )
        logits: torch.Tensor = found.logits[0, -1].float().clone()
        return logits

    def new_cache(self) -> EncoderDecoderCache:
        """For one text."""
        config = self._model.config
        return EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))

    def restrict(self, logits: torch.Tensor, written: Sequence[int]) -> torch.Tensor:
        """Keep what may be written next: what the rules allow, and times rather than text where those are likelier."""
        marks = self.marks
        logits = logits.index_fill(0, self._never, -torch.inf)
        if len(written) == 1:  # behind the time at which it begins
            logits = logits.index_fill(0, self._not_first, -torch.inf)
        spans: list[Span] = marks.forbidden(written)
        for start, stop in spans:
            logits[start:stop] = -torch.inf
        scores = torch.log_softmax(logits, -1)
        if scores[marks.times :].logsumexp(-1) > scores[: marks.times].max():
            logits[: marks.times] = -torch.inf
        return logits

    def most(self, prompt: Sequence[int]) -> int:
        """Tokens that can be written behind a prompt."""
        return min(self._length // 2, self._length - len(prompt))


class Window:
    """What the encoder made of one window."""

    def __init__(self, model: WhisperModel, encoded: BaseModelOutput) -> None:
        self._model = model
        self.encoded = encoded

    def first_impression(self) -> tuple[str, float]:
        """The language that is likeliest (empty: the model knows only English), and how likely there is no speech."""
        model, marks = self._model, self._model.marks
        logits = model.step(self, [marks.start], model.new_cache())
        silence = 0.0 if marks.no_speech is None else float(logits.softmax(-1)[marks.no_speech])
        known = sorted(marks.languages.items())
        scores = [float(logits[token]) for _, token in known]
        return (known[scores.index(max(scores))][0] if known else ""), silence

    def write(self, prompt: Sequence[int], choose: Callable[[torch.Tensor], int]) -> Iterator[tuple[int, float]]:
        """Tokens behind a prompt, each with the logarithm of its probability, up to and with the one that ends it."""
        model = self._model
        cache = model.new_cache()
        written: list[int] = []
        tokens = list(prompt)
        for _ in range(model.most(prompt)):
            logits = model.restrict(model.step(self, tokens, cache), written)
            token = choose(logits)
            yield token, float(torch.log_softmax(logits, -1)[token])
            if token == model.marks.end:
                return
            written.append(token)
            tokens = [token]


def chooser(temperature: float, seed: int | None) -> Callable[[torch.Tensor], int]:
    """Picks the next token: the likeliest at temperature 0, else one at random."""
    if not temperature:
        return lambda logits: int(logits.argmax())
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)

    def sample(logits: torch.Tensor) -> int:
        return int(torch.multinomial((logits.cpu() / temperature).softmax(-1), 1, generator=generator))

    return sample
