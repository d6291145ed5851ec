"""xinfer: every kind of model behind one OpenAI-compatible endpoint, on truthfully shared accelerators."""

__version__ = "0.1.0"
