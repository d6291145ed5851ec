"""Routing inside a gateway: the last good RouteTable, a link to every READY replica, retries before the first byte."""

import asyncio
import itertools
import logging
from collections.abc import Collection

from xinfer import plugins
from xinfer.api.errors import RelayedError
from xinfer.channel.link import CallStream, ReplicaLink
from xinfer.engines.base import Call
from xinfer.errors import InvalidRequest, NotReady, ReplicaLost, UnknownModel, XinferError
from xinfer.ops import Op
from xinfer.processes import host_id
from xinfer.routes import Availability, Endpoint, ModelRoute, RouteTable
from xinfer.routing.base import Candidate, RoutingPolicy

log = logging.getLogger(__name__)

MAX_LOST = 3
"""A request during which so many replicas died is not tried on another one: it may be what kills them."""
RECONNECT_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class Gateway:
    """The data plane's front. Knows nothing of HTTP; ``relay`` does."""

    def __init__(self, token: str, *, recover_wait_s: float, policy: str = "least_loaded") -> None:
        self.table = RouteTable()
        self._token = token
        self._recover_wait_s = recover_wait_s
        self._policy: RoutingPolicy = plugins.policies("xinfer.routing")[policy]
        self._host_id = host_id()
        self._links: dict[str, ReplicaLink] = {}
        self._wanted: dict[str, Endpoint] = {}
        self._connecting: dict[str, asyncio.Task[None]] = {}
        self._turn = itertools.count()
        self._changed = asyncio.Event()
        """Set, and replaced, whenever a route or a link changes."""

    @property
    def in_flight(self) -> int:
        """Calls of this gateway under way."""
        return sum(link.in_flight for link in self._links.values())

    def update(self, table: RouteTable) -> None:
        """Route by a newer table from now on."""
        self.table = table
        self._wanted = {e.instance: e for route in table.models.values() for e in route.endpoints}
        for instance, endpoint in self._wanted.items():
            if instance not in self._links and instance not in self._connecting:
                self._connect(endpoint)
        for instance, link in list(self._links.items()):
            if instance not in self._wanted and not link.in_flight:
                link.close()
        self._announce()

    def loads(self) -> list[tuple[str, int, int]]:
        """(replica_id, running, queued) of every replica that is connected."""
        return [(link.endpoint.replica_id, link.load.running, link.load.queued) for link in self._links.values()]

    async def close(self) -> None:
        """End every link."""
        self._wanted = {}
        for task in list(self._connecting.values()):
            task.cancel()
        await asyncio.gather(*self._connecting.values(), return_exceptions=True)
        for link in list(self._links.values()):
            link.close()

    def route(self, model: str, op: Op) -> ModelRoute:
        """The route of a model that can do ``op``.

        Raises:
            UnknownModel: no such model is deployed.
            InvalidRequest: it is, but cannot do that.
        """
        route = self.table.models.get(model)
        if route is None:
            raise UnknownModel(
                f"the model {model!r} does not exist; GET /v1/models lists what you can use", param="model"
            )
        if op not in route.ops:
            able = ", ".join(route.ops)
            raise InvalidRequest(f"the model {model!r} cannot do {op}; it can do: {able}", param="model")
        return route

    async def call(self, call: Call) -> CallStream:
        """Send a call to a replica; its stream, with a head that has arrived.

        A replica that dies, or that refuses because it drains, is replaced by another one: nothing reached the client.

        Raises:
            XinferError: why there is no answer.
        """
        lost = 0
        refused: set[str] = set()
        refusal: XinferError | None = None
        while True:
            link = await self._choose(call, refused, refusal)
            try:
                stream = link.open(call)
            except ReplicaLost:
                refused.add(link.endpoint.instance)
                continue
            try:
                while stream.head is None and not stream.ended:
                    await stream.arrived()
            except asyncio.CancelledError:
                stream.cancel()
                raise
            if stream.head is not None:
                return stream
            refused.add(link.endpoint.instance)
            if stream.failure is not None:
                refusal = RelayedError(stream.failure)
                if not stream.failure.retryable:
                    raise refusal
                continue
            lost += 1
            if lost >= MAX_LOST:
                raise ReplicaLost(f"{lost} replicas of {call.model!r} died while they worked on this request")

    async def _choose(self, call: Call, refused: Collection[str], refusal: XinferError | None) -> ReplicaLink:
        """A connected replica that has not refused this call; waits while one is being brought back."""
        deadline: float | None = None
        loop = asyncio.get_running_loop()
        while True:
            changed = self._changed
            route = self.route(call.model, call.op)
            links = [
                link
                for endpoint in route.endpoints
                if endpoint.instance not in refused and (link := self._links.get(endpoint.instance)) is not None
            ]
            if links:
                return links[self._policy.choose([_candidate(link) for link in links], next(self._turn))]
            if refusal is not None and all(e.instance in refused for e in route.endpoints):
                raise refusal
            if route.availability is Availability.LOADING:
                raise NotReady(route.message or f"the model {call.model!r} is still loading", retry_after=2)
            if route.availability is Availability.FAILED:
                raise NotReady(route.message or f"the model {call.model!r} failed to start", retry_after=30)
            deadline = deadline or loop.time() + self._recover_wait_s
            try:
                async with asyncio.timeout_at(deadline):
                    await changed.wait()
            except TimeoutError:
                raise NotReady(
                    f"no replica of {call.model!r} came back within {self._recover_wait_s:g} s", retry_after=5
                ) from None

    # links --------------------------------------------------------------------------------------------------------

    def _connect(self, endpoint: Endpoint) -> None:
        task = asyncio.get_running_loop().create_task(self._keep_connecting(endpoint))
        self._connecting[endpoint.instance] = task
        task.add_done_callback(lambda _: self._connecting.pop(endpoint.instance, None))

    async def _keep_connecting(self, endpoint: Endpoint) -> None:
        """Until it is connected, or no longer wanted."""
        for attempt in itertools.count():
            if endpoint.instance not in self._wanted:
                return
            link = ReplicaLink(endpoint, self._token, self._on_lost)
            try:
                await link.connect(self._host_id)
            except (OSError, TimeoutError) as error:
                if attempt == len(RECONNECT_S):
                    log.warning("replica %s at %s: %s", endpoint.replica_id, endpoint.address, error)
                await asyncio.sleep(RECONNECT_S[min(attempt, len(RECONNECT_S) - 1)])
                continue
            self._links[endpoint.instance] = link
            self._announce()
            return

    def _on_lost(self, link: ReplicaLink) -> None:
        instance = link.endpoint.instance
        if self._links.get(instance) is not link:
            return
        del self._links[instance]
        if instance in self._wanted and instance not in self._connecting:
            self._connect(link.endpoint)
        self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _candidate(link: ReplicaLink) -> Candidate:
    load = link.load
    return Candidate(
        link.endpoint.instance,
        load.running,
        load.queued,
        load.tokens_queued,
        load.tokens_per_s,
        link.opened_since_load,
    )
