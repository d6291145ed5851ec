"""Language models on Apple silicon (and, for trying, on any CPU) with mlx-lm, continuously batched.

==============  ========================================================================
engine.py       declares what it can do; importable without the library
loading.py      imports the library, reads weights and tokenizer, checks the model
trial.py        finds out what batches a model can be given
batch.py        the states of running sequences, in mlx-lm's own caches
prompts.py      prompts that are being read: which of them next, and how much (pure)
runner.py       one step: let in, read prompts in chunks, one token for every sequence
sampling.py     logits to tokens, for rows with different parameters
==============  ========================================================================
"""

from xinfer.engines.mlx.engine import MlxEngine

ENGINE = MlxEngine

__all__ = ["ENGINE", "MlxEngine"]
