"""Whether the files of demo-embed and demo-rerank rank the right document first, loaded as an engine loads them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from demo.embed_training import SMALLEST_LEAD
from demo.reproducible import console
from demo.rerank_training import GREATEST_SCORE_OF_WRONG, LEAST_SCORE_OF_RIGHT

Golden: TypeAlias = Mapping[str, Any]


def check_embed(folder: Path, golden: Golden) -> bool:
    """Return whether the right document leads at every length of the vectors; say by how much."""
    best = torch.tensor([query["best"] for query in golden["queries"]]).unsqueeze(-1)
    leads: dict[int, float] = {}
    for length in golden["matryoshka_dims"]:
        model = SentenceTransformer(str(folder), truncate_dim=length, device="cpu")
        known = model.encode(golden["corpus"], convert_to_tensor=True, normalize_embeddings=True)
        asked = model.encode([query["query"] for query in golden["queries"]], convert_to_tensor=True)
        cosines = torch.nn.functional.normalize(asked, dim=-1) @ known.T
        lead = cosines.gather(-1, best).squeeze(-1) - cosines.scatter(-1, best, -2.0).amax(-1)
        leads[length] = float(lead.min())
    console.print(
        "demo-embed, smallest lead by dimension: " + ", ".join(f"{n}: {lead:.2f}" for n, lead in leads.items())
    )
    return min(leads.values()) >= SMALLEST_LEAD


def check_rerank(folder: Path, golden: Golden) -> bool:
    """Return whether the right documents score near one and all others near zero; say how near."""
    model = CrossEncoder(str(folder), device="cpu")
    lowest_right, highest_wrong = 1.0, 0.0
    for query in golden["queries"]:
        scores: list[float] = model.predict([(query["query"], text) for text in golden["corpus"]]).tolist()
        lowest_right = min(lowest_right, scores.pop(query["best"]))
        highest_wrong = max(highest_wrong, *scores)
    console.print(
        f"demo-rerank: right documents score at least {lowest_right:.3f}, wrong ones at most {highest_wrong:.3f}"
    )
    return lowest_right >= LEAST_SCORE_OF_RIGHT and highest_wrong <= GREATEST_SCORE_OF_WRONG
