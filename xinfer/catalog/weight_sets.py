"""Sets of weights on hubs, and what workers say of those that they have, or are to have."""

import hashlib
from typing import Literal

import msgspec

from xinfer.catalog.sources import HubSource, hub_source
from xinfer.protocol import FileProgress
from xinfer.spec import Format, ModelSpec


class WeightSet(msgspec.Struct, frozen=True):
    """Which files are meant: those of one format in a repository, or of those that a pattern names."""

    source: HubSource
    format: Format

    @property
    def name(self) -> str:
        """Of its record and its lock."""
        digest = hashlib.sha256(f"{self.source} {self.format}".encode()).hexdigest()[:8]
        return f"{self.source.hub}--{self.source.repository.replace('/', '--')}--{digest}"


class CachedWeights(msgspec.Struct, frozen=True, kw_only=True):
    """A set that is on the disk of a worker. ``size`` in bytes, ``downloaded_at`` epoch seconds."""

    name: str
    source: str
    format: Format | None = None
    """None: a download that was begun and not finished."""
    size: int
    complete: bool
    """Every file is there with its size; else the next launch or pull goes on with it."""
    used_by: tuple[str, ...] = ()
    """Replicas."""
    downloaded_at: float = 0.0
    path: str = ""


class Pull(msgspec.Struct, frozen=True, kw_only=True):
    """A download to a worker that somebody ordered, as it is now or ended."""

    name: str
    """Of the set that was asked for first; the same on every worker."""
    source: str
    state: Literal["downloading", "ready", "failed", "cancelled"] = "downloading"
    stage: str = ""
    done: int = 0
    """Bytes that are here, also from before."""
    total: int = 0
    files: tuple[FileProgress, ...] = ()
    reason: str = ""
    """Why it failed."""
    path: str = ""
    """Where they are, once they are ready."""


class WeightsHere(msgspec.Struct, frozen=True, kw_only=True):
    """All weights of a worker that come from hubs. Workers of one home share them."""

    cached: tuple[CachedWeights, ...] = ()
    pulls: tuple[Pull, ...] = ()
    """Since it started, the latest last."""


def wanted_sets(spec: ModelSpec) -> tuple[WeightSet, ...]:
    """Where the weights of a model are on hubs, the preferred place first; none: they are on no hub."""
    sources = filter(None, map(hub_source, (spec.source, *spec.mirrors)))
    return tuple(WeightSet(source, spec.format) for source in sources) if hub_source(spec.source) else ()


def means(word: str, cached: CachedWeights) -> bool:
    """Whether somebody means these weights who says their name, their source, or the id of their repository."""
    found = hub_source(cached.source)
    return word in (cached.name, cached.source) or (found is not None and word == found.repository)
