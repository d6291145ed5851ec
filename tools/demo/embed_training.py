"""How demo-embed learns: each query must lie next to its document, at the full length of the vectors and cut short."""

import torch
from torch.nn.functional import cross_entropy, normalize
from transformers import BertModel, BertTokenizer

from demo.reproducible import Schedule, console, shown_progress
from demo.retrieval_corpus import all_queries, documents, golden_queries
from demo.retrieval_model import encode_texts, small_bert, without_some_words

MATRYOSHKA_DIMENSIONS = (64, 32, 16)
"""The lengths to which a vector may be cut; the first is the full one."""

SMALLEST_LEAD = 0.15
"""By how much the cosine of the right document must lead that of the next one, at every length."""

_STEPS = 300
_ROUNDS = 4
_SHARPNESS = 12.0
_WORDS_LEFT_OUT = 0.15


def train_embedding_model(tokenizer: BertTokenizer) -> BertModel:
    """Return a model for which the right document is the nearest one to each golden query.

    Raises:
        RuntimeError: it did not get there.
    """
    model = BertModel(small_bert(tokenizer))
    seed = torch.Generator().manual_seed(1)
    for _ in range(_ROUNDS):
        _learn(model, tokenizer, seed)
        lead = smallest_lead(model, tokenizer)
        console.print(f"demo-embed: the right document leads by a cosine of at least {lead:.2f}")
        if lead >= SMALLEST_LEAD:
            return model.eval()
    raise RuntimeError("demo-embed did not learn to find every document")


def embed(model: BertModel, tokenizer: BertTokenizer, texts: list[str]) -> torch.Tensor:
    """Return the mean over the tokens of each text, as the Pooling module of sentence-transformers forms it."""
    batch = encode_texts(tokenizer, texts)
    mask = batch["attention_mask"].unsqueeze(-1).float()
    hidden = model(**batch).last_hidden_state
    return (hidden * mask).sum(1) / mask.sum(1)


def smallest_lead(model: BertModel, tokenizer: BertTokenizer) -> float:
    """Return the smallest lead of a right document over the next one, over all golden queries and lengths."""
    queries = golden_queries()
    with torch.no_grad():
        asked, known = embed(model, tokenizer, [query for query, _ in queries]), embed(model, tokenizer, documents())
    best = torch.tensor([index for _, index in queries]).unsqueeze(-1)
    leads = []
    for length in MATRYOSHKA_DIMENSIONS:
        cosines = _cosines(asked, known, length)
        leads.append(cosines.gather(-1, best).squeeze(-1) - cosines.scatter(-1, best, -2.0).amax(-1))
    return float(torch.cat(leads).min())


def _learn(model: BertModel, tokenizer: BertTokenizer, seed: torch.Generator) -> None:
    """Take `_STEPS` steps over all queries and documents, each time without other words."""
    queries, best = zip(*all_queries(), strict=True)
    right = torch.tensor(best)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = Schedule([optimizer], _STEPS)
    with shown_progress("demo-embed", _STEPS) as progress:
        for step in range(_STEPS):
            schedule.set_for(step)
            asked = embed(model, tokenizer, [without_some_words(query, _WORDS_LEFT_OUT, seed) for query in queries])
            known = embed(model, tokenizer, [without_some_words(text, _WORDS_LEFT_OUT, seed) for text in documents()])
            loss = torch.stack(
                [cross_entropy(_cosines(asked, known, n) * _SHARPNESS, right) for n in MATRYOSHKA_DIMENSIONS]
            ).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            progress.done(loss.item())


def _cosines(queries: torch.Tensor, texts: torch.Tensor, length: int) -> torch.Tensor:
    """Return the cosine of each query with each text, the vectors cut to `length`."""
    return normalize(queries[:, :length], dim=-1) @ normalize(texts[:, :length], dim=-1).T
