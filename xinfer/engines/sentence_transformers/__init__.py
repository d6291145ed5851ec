"""Embedding and rerank models in the folder format of Sentence Transformers."""

from xinfer.engines.sentence_transformers.engine import SentenceTransformersEngine

ENGINE = SentenceTransformersEngine
