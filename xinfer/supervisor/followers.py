"""Which RouteTable every gateway has: a launch is ready, or a model gone, once that is so wherever clients ask."""

from xinfer.routes import RouteTable

Version = tuple[int, int]
"""(epoch, version) of a RouteTable."""


class Followers:
    """Gateways by a name of their own choice. With each poll they say which table they have."""

    def __init__(self) -> None:
        self._have: dict[str, Version] = {}

    def has(self, gateway: str, version: Version) -> None:
        """A gateway asks for a table newer than the one it has."""
        self._have[gateway] = version

    def behind(self, table: RouteTable) -> frozenset[str]:
        """Those that are not known to have this table yet."""
        return frozenset(name for name, version in self._have.items() if version < (table.epoch, table.version))

    def forget(self, gateways: frozenset[str]) -> None:
        """They did not come back for a newer table: they are dead, and would hold up whoever waits for them."""
        for name in gateways:
            del self._have[name]
