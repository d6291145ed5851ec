"""Where an endpoint is, and how it is asked. Pure."""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from xinfer.engines.base import SECRET
from xinfer.engines.passthrough import PATHS, Origin, check_header
from xinfer.errors import InvalidRequest
from xinfer.ops import Op

VERSION = "/v1"
OURS = frozenset(
    {
        *("accept-encoding", "connection", "content-length", "content-type", "expect", "te", "trailer"),
        *("transfer-encoding", "upgrade", "x-request-id"),
    }
)
"""Headers that say how a request is sent, or come with every request. Given twice, they would break it."""
_ENDS = ("/chat/completions", f"{VERSION}/models", *(path for path in PATHS.values() if path.startswith(VERSION)))
Secret = Annotated[str, Meta(extra=SECRET)]


class RemoteOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Engine keywords of a launch."""

    base_url: str
    """As OpenAI's clients take it: ``https://api.example.com/v1``. Without a path, ``/v1`` is meant."""
    model: str = ""
    """The model's name over there; by default the name it was launched with."""
    api_key: Secret = ""
    """Sent as a bearer token. It is stored with the deployment; ``api_key_env`` keeps it out of there."""
    remote_api_key: Secret = ""
    """The same, for command lines, where ``--api-key`` is the key of this cluster."""
    api_key_env: str = ""
    """The variable in the environment of the workers that holds the key."""
    headers: Annotated[dict[str, str], Meta(extra=SECRET)] = {}
    """Sent with every request; none of those that say how it is sent."""
    timeout_s: Annotated[float, Meta(gt=0)] = 600.0
    """For so long the endpoint may say nothing while it answers, in seconds."""
    check: bool = True
    """Ask the endpoint for its list of models before the first request, and refuse to serve one that it has not."""

    def __post_init__(self) -> None:
        """Refuse what no request could be made with.

        Raises:
            ValueError: says what is wrong.
        """
        try:
            origin = Origin.of(self.base_url)
        except ValueError as error:
            raise ValueError(f"base_url: {error}") from None
        if end := next((path for path in _ENDS if origin.prefix.endswith(path)), ""):
            raise ValueError(f"base_url: it must end before {end.removeprefix(VERSION)!r}, which requests add")
        if sum(map(bool, (self.api_key, self.remote_api_key, self.api_key_env))) > 1:
            raise ValueError("of api_key, remote_api_key and api_key_env only one can be given")
        for name, value in self.request_headers(self.api_key or self.remote_api_key).items():
            check_header(name, value)
            if name.lower() in OURS:
                raise ValueError(f"the header {name!r} is set for every request as that needs it; leave it out")

    def request_headers(self, key: str) -> dict[str, str]:
        """What is sent with every request, with this key."""
        names = {name.lower() for name in self.headers}
        return {**({"authorization": f"Bearer {key}"} if key and "authorization" not in names else {}), **self.headers}

    def key(self, environment: Mapping[str, str]) -> str:
        """The key, from the options or from the environment; empty: none is sent.

        Raises:
            InvalidRequest: the environment has no such variable.
        """
        if not self.api_key_env:
            return self.api_key or self.remote_api_key
        value = environment.get(self.api_key_env, "").strip()
        if not value:
            raise InvalidRequest(
                f"the environment of this worker has no variable {self.api_key_env!r}, which api_key_env names; set it "
                "where the worker is started",
                param="api_key_env",
            )
        return value

    @property
    def origin(self) -> Origin:
        """Where the server is; paths begin behind its prefix."""
        origin = Origin.of(self.base_url)
        return msgspec.structs.replace(origin, prefix=origin.prefix.removesuffix(VERSION))

    @property
    def paths(self) -> dict[Op, str]:
        """Where each operation is, behind the prefix. Servers that know no ``/v1`` have none in any path."""
        return {op: self._path(path) for op, path in PATHS.items()}

    @property
    def models_path(self) -> str:
        """Where the list of models is."""
        return self._path(f"{VERSION}/models")

    def _path(self, path: str) -> str:
        prefix = Origin.of(self.base_url).prefix
        return path if not prefix or prefix.endswith(VERSION) else path.removeprefix(VERSION)
