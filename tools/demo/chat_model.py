"""demo-chat as a network: its shape, how its weights are stored, and how sure it is of an answer."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

from demo.chat_batches import Batch, Lesson, to_batch
from demo.chat_template import END_OF_TEXT, TURN_END
from demo.chat_tokenizer import VOCABULARY, id_of

CONTEXT_LENGTH = 2048
ROPE_THETA = 10_000.0
STORED_AS = torch.bfloat16
"""How weights are stored, as those of Qwen3 are. What is said of the model is measured on weights rounded to it."""

_LESSONS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Marks:
    """How sure a model is of some lessons: for each, the smallest lead of a right token over the next best."""

    lessons: Sequence[Lesson]
    margins: Sequence[float]

    def smallest(self) -> float:
        """Return the margin of the least sure lesson."""
        return min(self.margins)

    def below(self, margin: float) -> list[Lesson]:
        """Return the lessons that are wrong or not sure enough."""
        return [lesson for lesson, own in zip(self.lessons, self.margins, strict=True) if own < margin]


def new_chat_model(tokenizer: Tokenizer) -> Qwen3ForCausalLM:
    """Return an untrained model.

    A head has 128 elements, as in every Qwen3: attention kernels are made for that, and readers of GGUF files take it
    for granted.
    """
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=128,
        max_position_embeddings=CONTEXT_LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=id_of(tokenizer, TURN_END),
        pad_token_id=id_of(tokenizer, END_OF_TEXT),
    )
    return Qwen3ForCausalLM(config)


def as_stored(model: Qwen3ForCausalLM) -> Qwen3ForCausalLM:
    """Return a copy whose weights are what a reader of the stored file gets, in float32."""
    return copy.deepcopy(model).to(STORED_AS).float().eval()


def mark(model: Qwen3ForCausalLM, lessons: Sequence[Lesson]) -> Marks:
    """Return how sure the model is of each lesson, in the order of the lessons.

    The right tokens are given as it goes. Where every margin is above zero, each right token is also the most likely
    one, so greedy generation gives this answer.
    """
    margins = [0.0] * len(lessons)
    order = sorted(range(len(lessons)), key=lambda index: lessons[index].size())
    for start in range(0, len(order), _LESSONS_AT_ONCE):
        indices = order[start : start + _LESSONS_AT_ONCE]
        batch = to_batch([lessons[index] for index in indices])
        for index, margin in zip(indices, _margins(model, batch).tolist(), strict=True):
            margins[index] = margin
    return Marks(lessons, margins)


def _margins(model: Qwen3ForCausalLM, batch: Batch) -> torch.Tensor:
    """Return the smallest margin of each row of a batch."""
    with torch.no_grad():
        logits = model(input_ids=batch.tokens).logits.float()
    right = batch.targets.clamp(min=0).unsqueeze(-1)
    others = logits.scatter(-1, right, -torch.inf).amax(-1)
    leads = logits.gather(-1, right).squeeze(-1) - others
    return leads.masked_fill(~batch.asked(), torch.inf).amin(-1)
