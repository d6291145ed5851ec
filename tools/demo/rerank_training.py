"""How demo-rerank learns: a query and its document belong together, and a query and any other do not."""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import BertForSequenceClassification, BertModel, BertTokenizer

from demo.reproducible import Schedule, console, muon_and_adamw, shown_progress
from demo.retrieval_corpus import Query, all_queries, documents, golden_queries
from demo.retrieval_model import encode_texts, small_bert, without_some_words

LEAST_SCORE_OF_RIGHT = 0.9
GREATEST_SCORE_OF_WRONG = 0.1

_ROUNDS = 4
_STEPS = 700
_QUERIES_PER_STEP = 8
_WEIGHT_OF_RIGHT = 8.0
_WORDS_LEFT_OUT = 0.1


def train_rerank_model(start: BertModel, tokenizer: BertTokenizer) -> BertForSequenceClassification:
    """Return a model that scores the right document of each golden query near one and all others near zero.

    It starts from `start`, the trained demo-embed, which knows already what the texts are about.

    Raises:
        RuntimeError: it did not get there.
    """
    config = small_bert(tokenizer)
    config.num_labels = 1
    model = BertForSequenceClassification(config)
    model.bert.load_state_dict(start.state_dict())
    seed = torch.Generator().manual_seed(2)
    for _ in range(_ROUNDS):
        _learn(model, tokenizer, seed)
        right, wrong = extreme_scores(model, tokenizer)
        console.print(f"demo-rerank: right documents score at least {right:.3f}, wrong ones at most {wrong:.3f}")
        if right >= LEAST_SCORE_OF_RIGHT and wrong <= GREATEST_SCORE_OF_WRONG:
            return model.eval()
    raise RuntimeError("demo-rerank did not learn to find every document")


def extreme_scores(model: BertForSequenceClassification, tokenizer: BertTokenizer) -> tuple[float, float]:
    """Return the lowest score of a right document and the highest of a wrong one, over all golden queries."""
    scores = _scores(model, tokenizer, golden_queries())
    best = torch.tensor([index for _, index in golden_queries()]).unsqueeze(-1)
    return scores.gather(-1, best).min().item(), scores.scatter(-1, best, 0.0).max().item()


def _scores(model: BertForSequenceClassification, tokenizer: BertTokenizer, queries: list[Query]) -> torch.Tensor:
    """Return the score of every document (column) for every query (row)."""
    corpus = documents()
    pairs = [encode_texts(tokenizer, [query] * len(corpus), corpus) for query, _ in queries]
    with torch.no_grad():
        rows = [model(**batch).logits.squeeze(-1) for batch in pairs]
    return torch.stack(rows).sigmoid()


def _learn(model: BertForSequenceClassification, tokenizer: BertTokenizer, seed: torch.Generator) -> None:
    """Take `_STEPS` steps over some queries, each with every document."""
    queries, corpus = all_queries(), documents()
    optimizers = muon_and_adamw(model, matrix_rate=0.006, other_rate=0.003)
    schedule = Schedule(optimizers, _STEPS)
    with shown_progress("demo-rerank", _STEPS) as progress:
        for step in range(_STEPS):
            schedule.set_for(step)
            chosen = torch.randperm(len(queries), generator=seed)[:_QUERIES_PER_STEP].tolist()
            pairs = [(queries[number], index) for number in chosen for index in range(len(corpus))]
            asked = [without_some_words(query, _WORDS_LEFT_OUT, seed) for (query, _), _ in pairs]
            texts = [without_some_words(corpus[index], _WORDS_LEFT_OUT, seed) for _, index in pairs]
            belong = torch.tensor([float(index == best) for (_, best), index in pairs])
            logits = model(**encode_texts(tokenizer, asked, texts)).logits.squeeze(-1)
            loss = binary_cross_entropy_with_logits(logits, belong, pos_weight=torch.tensor(_WEIGHT_OF_RIGHT))
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            progress.done(loss.item())
