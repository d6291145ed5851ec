"""The base of token engines: a library that yields tokens, and everything between those and an OpenAI answer.

An engine subclasses ``TokenEngine`` and makes a ``LoadedModel``: its tokenizer, its chat template, and a ``Runner``
that continues sequences. The rest is done here, once for all of them::

    request body ─ prompts.py ─▶ Job ─ engine.py ─▶ Sequences ─ loop.py (a thread of its own) ─▶ Runner.step
    answer bytes ◀─ answers.py ─ Piece ◀─ text.py ── tokens ◀── one hand-over per step for all sequences ──┘

A runner that asks ``sequence.constraint`` for a mask before it chooses, and ``sequence.ending_after`` behind every
token, has structured output and forced tool calls: ``constraint.py``.
"""

from xinfer.engines.token_engine.adapters import ServesAdapters
from xinfer.engines.token_engine.constraint import GRAMMAR_PACKAGES, Constraint
from xinfer.engines.token_engine.engine import HONOURED, LoadedModel, TokenEngine
from xinfer.engines.token_engine.job import JobMaker
from xinfer.engines.token_engine.loop import Runner
from xinfer.engines.token_engine.pictures import ImageReader
from xinfer.engines.token_engine.prompts import Limits
from xinfer.engines.token_engine.sequence import BROKEN, Candidates, Ending, Progress, Sequence
from xinfer.engines.token_engine.shield import Shield
from xinfer.engines.token_engine.tokenization import TOKEN_OPS, Tokenization
from xinfer.engines.token_engine.tokenizer import Tokenizer

__all__ = [
    "BROKEN",
    "GRAMMAR_PACKAGES",
    "HONOURED",
    "TOKEN_OPS",
    "Candidates",
    "Constraint",
    "Ending",
    "ImageReader",
    "JobMaker",
    "Limits",
    "LoadedModel",
    "Progress",
    "Runner",
    "Sequence",
    "ServesAdapters",
    "Shield",
    "TokenEngine",
    "Tokenization",
    "Tokenizer",
]
