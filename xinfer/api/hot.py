"""What a module of ``api.routes`` declares about its hot routes, so that they are served raw and still documented."""

import msgspec

from xinfer.ops import Op


class Hot(msgspec.Struct, frozen=True):
    """One operation of the data plane: where it is served, and what its body is."""

    op: Op
    paths: tuple[str, ...]
    summary: str
    description: str
    body: type[msgspec.Struct]
    streams: bool = False
    is_form: bool = False
    """The body is a form with a file, rather than JSON."""
