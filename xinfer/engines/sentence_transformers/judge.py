"""Language models as rerankers, on the transformers library: one step for each pair, and the logits of its answer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from xinfer.engines.sentence_transformers.folder import UNBOUNDED, ModelFolder
from xinfer.engines.sentence_transformers.models import Tokens, pick_dtype
from xinfer.engines.sentence_transformers.native import as_array
from xinfer.engines.sentence_transformers.options import Options
from xinfer.engines.sentence_transformers.tokenizing import TextTokenizer
from xinfer.errors import ContextOverflow
from xinfer.generation.context import context_length
from xinfer.generation.judging import PLACE, Judge

if TYPE_CHECKING:
    import numpy as np


class JudgeReranker:
    """A language model that is asked whether each document answers the query."""

    packed = False
    normalizes = False

    def __init__(
        self, folder: ModelFolder, judge: Judge, options: Options, device: torch.device, instruction: str
    ) -> None:
        """Read the model. ``instruction`` is for requests that have none; empty: what the model's template says."""
        transformers_logging.disable_progress_bar()
        self._judge = judge
        self._instruction = instruction
        self._device = device
        self._prompts = PromptTokenizer(Tokenizer.from_file(str(folder.path / "tokenizer.json")))
        self.tokenizer: TextTokenizer = self._prompts
        self._yes, self._no = (self._token(word) for word in (judge.answer.yes, judge.answer.no))
        model = AutoModelForCausalLM.from_pretrained(
            folder.path,
            dtype=pick_dtype(options.dtype, device) or "auto",
            trust_remote_code=options.trust_remote_code,
            local_files_only=True,
        )
        self._model: Any = model.to(device).eval()
        self.vocabulary = int(model.get_input_embeddings().weight.shape[0])
        self.max_length = context_length(model.config.get_text_config().to_dict()) or UNBOUNDED
        judge.question("", instruction)  # raises where there is no place for it

    def phrased(self, query: str, instruction: str | None, limit: int) -> str:
        """See ``Reranker.phrased``: the whole prompt, with a mark where the document goes."""
        question = self._judge.question(query, self._instruction if instruction is None else instruction)
        tokens = sum(len(ids) for ids in self._prompts.parts([question.before, question.after]))
        if tokens >= limit:
            raise ContextOverflow(
                f"'query' has {tokens} tokens with what the model is asked around it, which leaves no room for a "
                f"document: the limit is {limit}",
                param="query",
            )
        return f"{question.before}{PLACE}{question.after}"

    def run(self, inputs: Sequence[Tokens]) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """See ``Model.run``. Rows are padded on the left, so that all end with what the model answers to."""
        longest = max(len(ids) for ids, _ in inputs)
        rows = [[0] * (longest - len(ids)) + ids for ids, _ in inputs]
        starts = torch.tensor([longest - len(ids) for ids, _ in inputs], device=self._device)[:, None]
        places = torch.arange(longest, device=self._device)
        with torch.inference_mode():
            logits = self._model(
                input_ids=torch.tensor(rows, device=self._device),
                attention_mask=(places >= starts).long(),
                position_ids=(places - starts).clamp(min=0),
                use_cache=False,
                logits_to_keep=1,
            ).logits[:, -1]
            score = logits[:, self._yes] if self._no is None else logits[:, self._yes] - logits[:, self._no]
            return as_array(torch.sigmoid(score.float())[:, None])

    def _token(self, word: int | str | None) -> int | None:
        if not isinstance(word, str):
            return word
        return self._prompts.parts([word])[0][0]


class PromptTokenizer(TextTokenizer):
    """Encodes prompts as they are, since templates write the special tokens themselves."""

    def parts(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text. Keeps no state, so that it works in any thread."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def pairs(self, pairs: Sequence[tuple[str, str]], limit: int) -> list[Tokens]:
        """The ids of prompts, each given as the text around a document and the document, which is cut.

        The text around stays whole: with its end missing, nothing would ask the model for an answer.
        """
        around = [prompt.split(PLACE) for prompt, _ in pairs]
        ends = self.parts([after for _, after in around])
        texts = [before + document for (before, _), (_, document) in zip(around, pairs, strict=True)]
        return [(ids[: limit - len(end)] + end, None) for ids, end in zip(self.parts(texts), ends, strict=True)]
