"""GGUF models with llama.cpp, continuously batched on its low-level interface.

==============  ========================================================================
engine.py       declares what it can do; importable without the library
options.py      the keywords of a launch
planning.py     how the granted memory is divided (pure)
library.py      the C interface as objects: model, context, batch, sampler
loading.py      reads a GGUF file, and what its header says
tokenizer.py    text to tokens and back
images.py       where images are in prompts (pure)
vision.py       images to what the model reads
slots.py        who has which part of the cache, and what it still knows (pure)
pace.py         how many tokens of prompts a step reads (pure)
runner.py       one step: admit, read chunks of prompts, one token for every running sequence
sampling.py     logits to tokens, for sequences with different parameters
encoder.py      texts to vectors or scores
pooling.py      embedding and rerank requests
==============  ========================================================================
"""

from xinfer.engines.llama_cpp.engine import LlamaCppEngine

ENGINE = LlamaCppEngine
