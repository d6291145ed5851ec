"""Plain completions beside a parser of thoughts."""

from typing import Any


class WithoutThoughts:
    """vLLM's engine, for requests in which no thoughts come first.

    Where a model has a parser of thoughts, vLLM holds an answer to its form (a schema, a grammar) only from the end of
    the thoughts on. It looks for that end in plain completions too, which have none, so that nothing would hold them.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        """What else the engine has."""
        return getattr(self._engine, name)

    def generate(self, *args: Any, **more: Any) -> Any:
        """The engine's, for an answer that begins at once."""
        return self._engine.generate(*args, **{"reasoning_ended": True, **more})
