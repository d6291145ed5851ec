"""Any causal language model of the transformers library with standard attention, continuously batched.

==============  ========================================================================
engine.py       declares what it can do; importable without the library
imports.py      imports the library without what it would drag in
loading.py      imports the library, reads weights and tokenizer, checks the model
tokenizer.py    ``tokenizer.json`` with the tokenizers library
shape.py        how large the cache must be, and what fits (pure)
cache.py        keys and values: one row per running sequence, without gaps
attention.py    attention over those rows
runner.py       one step: admit, read prompts in chunks, one token for every running sequence
sampling.py     logits to tokens, for rows with different parameters
==============  ========================================================================
"""

from xinfer.engines.transformers.engine import TransformersEngine

ENGINE = TransformersEngine
