"""Routing inside a gateway: the last good RouteTable, a link to every READY replica, retries before the first byte."""

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

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
MAX_SHOWN = 128
RECONNECT_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)

Wake = Callable[[str], Awaitable[object]]
"""Has a model woken that sleeps; returns when that is ordered."""


async def _wake_nobody(model_uid: str) -> None:
    """For a gateway that has nobody to ask."""


class Gateway:
    """The data plane's front. Knows nothing of HTTP; ``relay`` does."""

    def __init__(
        self,
        token: str,
        *,
        recover_wait_s: float,
        policy: str = "least_loaded",
        wake_wait_s: float = 0.0,
        wake: Wake = _wake_nobody,
    ) -> None:
        """``wake_wait_s``: how long a request waits for a model that sleeps; 0: requests do not wake models."""
        self.table = RouteTable()
        self._wake_wait_s = wake_wait_s
        self._wake = wake
        self._waking: dict[str, asyncio.Task[None]] = {}
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
    def models(self) -> Mapping[str, ModelRoute]:
        """The deployed models by uid.

        Raises:
            NotReady: no table has come yet, so nothing is known about any.
        """
        if not self.table.epoch:
            raise NotReady("this gateway has just started, and waits for the supervisor's route table", retry_after=1)
        return self.table.models

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
        tasks = [*self._connecting.values(), *self._waking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in list(self._links.values()):
            link.close()

    def route(self, model: str, op: Op) -> ModelRoute:
        """The route of a model that can do ``op``.

        Raises:
            NotReady: no table has come yet.
            UnknownModel: no such model is deployed.
            InvalidRequest: it is, but cannot do that.
        """
        route = self.models.get(model)
        if route is None:
            raise UnknownModel(
                f"the model {_shown(model)!r} does not exist; GET /v1/models lists what you can use", param="model"
            )
        if op not in route.ops:
            able = ", ".join(route.ops)
            raise InvalidRequest(f"the model {model!r} cannot do {op}; it can do: {able}", param="model")
        return route

    async def answers(self, call: Call, *, patient: bool = True) -> AsyncGenerator[CallStream, None]:
        """The call's answer, as a stream whose head has arrived.

        Whoever asks for a further one says that the replica died before the client saw anything of the last. A replica
        that dies earlier, or that refuses because it is full or drains, is replaced by another one without a word.
        ``patient``: wait for a model that is being brought back; else that is NotReady at once.

        Raises:
            XinferError: why there is no answer.
        """
        refused: set[str] = set()
        refusal: XinferError | None = None
        lost = 0
        while lost < MAX_LOST:
            link = await self._choose(call, refused, refusal, self._recover_wait_s if patient else 0.0)
            stream = link.open(call)
            try:
                while stream.head is None and not stream.ended:
                    await stream.arrived()
                if stream.head is not None:
                    yield stream
            finally:
                stream.cancel()
            if stream.head is not None or stream.failure is None:
                lost += 1
                continue
            if not stream.failure.retryable:
                raise RelayedError(stream.failure)
            refused.add(link.endpoint.instance)
            if stream.failure.status != NotReady.status:  # one that drains is about to be replaced: worth a wait
                refusal = RelayedError(stream.failure)
        raise ReplicaLost(f"{MAX_LOST} replicas of {call.model!r} died while they worked on this request")

    async def _choose(self, call: Call, refused: set[str], refusal: XinferError | None, wait_s: float) -> ReplicaLink:
        """A connected replica that has not refused this call; waits ``wait_s`` while one is being brought back."""
        link = self._pick(call, refused, refusal)
        if link is not None:
            return link
        if wait_s and self._is_asleep(call.model):
            wait_s = self._wake_wait_s
        try:
            async with asyncio.timeout(wait_s):
                while link is None:
                    await self._changed.wait()
                    link = self._pick(call, refused, refusal)
        except TimeoutError:
            raise NotReady(f"no replica of {call.model!r} came back within {wait_s:g} s", retry_after=5) from None
        return link

    def _pick(self, call: Call, refused: set[str], refusal: XinferError | None) -> ReplicaLink | None:
        """What the policy prefers now; None where waiting helps: a replica, or the very first table, is on its way."""
        if not self.table.epoch:
            return None
        refused &= self._wanted.keys()  # one that fell asleep comes back as the same instance
        route = self.route(call.model, call.op)
        links = [
            link
            for endpoint in route.endpoints
            if endpoint.instance not in refused
            and (link := self._links.get(endpoint.instance)) is not None
            and link.is_open
        ]
        if links:
            return links[self._policy.choose([_candidate(link) for link in links], next(self._turn))]
        if refusal is not None and all(e.instance in refused for e in route.endpoints):
            raise refusal
        if route.availability is Availability.LOADING:
            raise NotReady(route.message or f"the model {call.model!r} is still loading", retry_after=2)
        if route.availability is Availability.FAILED:
            raise NotReady(route.message or f"the model {call.model!r} failed to start", retry_after=30)
        if route.availability is Availability.ASLEEP:
            self._have_woken(route)
        return None

    def _is_asleep(self, model: str) -> bool:
        route = self.table.models.get(model)
        return route is not None and route.availability is Availability.ASLEEP

    def _have_woken(self, route: ModelRoute) -> None:
        """Ask for it once, however many requests wait.

        Raises:
            NotReady: requests do not wake models here.
        """
        uid = route.parent or route.model_uid
        if not self._wake_wait_s:
            raise NotReady(f"the model {uid!r} is asleep; wake it with: xinfer wake {uid}", retry_after=30)
        if uid not in self._waking:
            task = self._waking[uid] = asyncio.get_running_loop().create_task(self._order_to_wake(uid))
            task.add_done_callback(lambda _: self._waking.pop(uid, None))

    async def _order_to_wake(self, uid: str) -> None:
        try:
            await self._wake(uid)
        except XinferError as error:  # those who wait for it give up in time
            log.warning("model %s could not be woken: %s", uid, error.message)

    # links --------------------------------------------------------------------------------------------------------

    def _connect(self, endpoint: Endpoint) -> None:
        self._connecting[endpoint.instance] = asyncio.get_running_loop().create_task(self._keep_connecting(endpoint))

    async def _keep_connecting(self, endpoint: Endpoint) -> None:
        """Until it is connected, or no longer wanted."""
        for attempt in itertools.count():
            if endpoint.instance not in self._wanted:
                break
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
            break
        # Here, not in a callback of the task: whoever asks next must find either the link or that it is being made.
        del self._connecting[endpoint.instance]

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


def _shown(model: str) -> str:
    """A name that a client made up, short enough for a message."""
    return model if len(model) <= MAX_SHOWN else model[:MAX_SHOWN] + "..."


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
