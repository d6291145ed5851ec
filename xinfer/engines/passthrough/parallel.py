"""How a model is split between the cards of several workers, in the words of another server. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from xinfer.engines.base import Match
from xinfer.errors import InvalidRequest


class ParallelWords(msgspec.Struct, frozen=True, kw_only=True):
    """Its options for that. Of several names for one thing, the first is the one that we write."""

    tensor: tuple[str, ...]
    """Into how many parts every layer is cut."""
    pipeline: tuple[str, ...]
    """Into how many groups the layers are put, one after the other."""
    copies: tuple[str, ...] = ()
    """How many times the whole model is there, each with cards of its own."""

    def alone(self, options: Mapping[str, Any], cards: int) -> dict[str, Any]:
        """How a model is split between the cards of one worker, where the launch does not say: every layer is cut."""
        if any(name in options for name in (*self.tensor, *self.pipeline)):
            return {}
        parts = cards // max(1, _number(options, self.copies))
        return {self.tensor[0]: parts} if parts > 1 else {}

    def fits(self, options: Mapping[str, Any], size: int) -> Match:
        """Whether so many workers can share what these options make, as far as that can be told without the cards."""
        tensor, pipeline = _number(options, self.tensor), _number(options, self.pipeline)
        if tensor and pipeline and tensor * pipeline % size:
            words = f"{self.tensor[0]} {tensor} times {self.pipeline[0]} {pipeline} is {tensor * pipeline}"
            return Match(False, f"{words}, which {size} workers cannot share")
        return Match(True)

    def split(
        self, options: Mapping[str, Any], each: int, size: int, across: Literal["tensor", "pipeline"]
    ) -> dict[str, Any]:
        """Both numbers, for ``each`` cards of ``size`` workers, where the launch says nothing or only one of them.

        ``across``: what is cut at the borders between workers, if nothing is said.

        Raises:
            InvalidRequest: what the launch says does not use all cards.
        """
        ranks = each * size
        tensor, pipeline = _number(options, self.tensor), _number(options, self.pipeline)
        wanted_tensor = tensor or (ranks // pipeline if pipeline else each if across == "pipeline" else ranks)
        wanted_pipeline = pipeline or ranks // wanted_tensor
        if wanted_tensor * wanted_pipeline != ranks:
            raise InvalidRequest(
                f"{self.tensor[0]} {wanted_tensor} times {self.pipeline[0]} {wanted_pipeline} is not {ranks}, which is "
                f"{each} on each of {size} workers",
                param=self.tensor[0] if tensor else self.pipeline[0],
            )
        suggested = {} if tensor else {self.tensor[0]: wanted_tensor}
        return suggested if pipeline else suggested | {self.pipeline[0]: wanted_pipeline}


def _number(options: Mapping[str, Any], names: Sequence[str]) -> int:
    """0 where nothing is said; what makes no sense, the server itself refuses."""
    for name in names:
        value = options.get(name)
        if isinstance(value, int | str) and str(value).isdecimal():
            return int(value)
    return 0
