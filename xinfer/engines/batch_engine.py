"""The base of batch engines (embedding, rerank, classification): micro-batching over concurrent requests.

``BatchQueue`` decides which inputs run together. ``BatchWorker`` acts: one thread that prepares inputs (tokenises),
runs batches and hands results back. ``BatchEngine`` is what an engine derives from: it gives ``open``, ``prepare`` and
``run``, which all happen in that thread, and gets ``load``, ``submit`` and the load report.

Nothing waits for a batch to fill: an idle worker takes what is there at once, and while one batch runs the next one
gathers.
"""

import asyncio
import contextlib
import logging
import math
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from xinfer.devices import Grant
from xinfer.engines.base import Load, Progress
from xinfer.engines.batch_queue import BatchLimits, BatchQueue, Piece
from xinfer.errors import EngineFailed, NotReady, XinferError, describe
from xinfer.spec import ModelSpec

PREPARED_AT_ONCE = 64
"""Inputs handed to ``prepare`` at once."""

logger = logging.getLogger(__name__)

RATE_MEMORY_S = 5.0
"""Over how many seconds the rate of tokens is averaged."""


class RateMeter:
    """A rate that forgets: what happened ``memory_s`` seconds ago counts for a third of what happens now."""

    def __init__(self, memory_s: float = RATE_MEMORY_S) -> None:
        self._memory_s = memory_s
        self._rate = 0.0
        self._at = -math.inf

    def add(self, now: float, amount: float) -> None:
        """Count ``amount`` at ``now`` (seconds of a monotonic clock)."""
        self._rate = self.rate(now) + amount / self._memory_s
        self._at = now

    def rate(self, now: float) -> float:
        """Per second, as of ``now``."""
        return self._rate * math.exp((self._at - now) / self._memory_s)


class Prepared(msgspec.Struct, frozen=True):
    """An input that is ready to run. ``tokens`` is its length with special tokens and without padding."""

    tokens: int
    payload: Any


class Answer(msgspec.Struct, frozen=True):
    """What became of a request: one result for each of its inputs, in their order, and the tokens of all of them."""

    results: list[Any]
    tokens: int


class Request:
    """A request on its way through the worker. Only the worker's thread changes it, but for ``cancelled``."""

    def __init__(self, inputs: Sequence[Any], done: "asyncio.Future[Answer]") -> None:
        self.inputs = inputs
        self.done = done
        self.cancelled = False
        self.prepared = 0
        self.tokens = 0
        self.results: list[Any] = [None] * len(inputs)
        self.missing = len(inputs)
        self.error: XinferError | None = None

    @property
    def over(self) -> bool:
        """Nothing more is to be done for it."""
        return self.cancelled or self.error is not None or not self.missing


class BatchWorker:
    """The thread in which everything heavy happens, so that the replica's event loop stays free.

    ``start``, ``submit``, ``close`` and ``load`` belong to the event loop, the methods below them to the thread. The
    two meet in the inbox (a request; the same one again once it is cancelled; ``None``: stop) and in ``_deliver``.
    """

    def __init__(
        self,
        prepare: Callable[[Sequence[Any]], Sequence[Prepared | XinferError]],
        run: Callable[[Sequence[Any]], Sequence[Any]],
    ) -> None:
        self._prepare = prepare
        self._run = run
        self._loop = asyncio.get_running_loop()
        self._open: set[Request] = set()
        self._closed = False
        self._inbox: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._unprepared: deque[Request] = deque()
        self._limits = BatchLimits()
        self._queue: BatchQueue[Request] = BatchQueue(self._limits)
        self._finished: list[Request] = []
        self._running = 0
        self._meter = RateMeter()
        self._thread: threading.Thread | None = None

    async def start(self, setup: Callable[[], BatchLimits]) -> None:
        """Start the thread with ``setup``, and return when that is done.

        Raises:
            Exception: whatever ``setup`` raises; the thread has ended then.
        """
        ready: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._live, args=(setup, ready), name="batches", daemon=True)
        self._thread.start()
        await ready

    async def submit(self, inputs: Sequence[Any]) -> Answer:
        """Have inputs prepared and run. Cancelling it drops what has not run yet.

        Raises:
            XinferError: what ``prepare`` said about an input.
            EngineFailed: ``prepare`` or ``run`` raised.
            NotReady: the engine is closed.
        """
        if self._closed:
            raise _closed()
        if not inputs:
            return Answer([], 0)
        request = Request(inputs, self._loop.create_future())
        self._open.add(request)
        self._inbox.put(request)
        try:
            return await request.done
        finally:
            self._open.discard(request)
            if request.done.cancelled():
                request.cancelled = True
                self._inbox.put(request)

    async def close(self) -> None:
        """Finish the batch that runs, end the thread, and fail what still waits."""
        self._closed = True
        self._inbox.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        for request in self._open:
            if not request.done.done():
                request.done.set_exception(_closed())

    def load(self) -> Load:
        """How busy it is. Tokens are counted from when an input is tokenised."""
        running = self._running
        return Load(
            running=running,
            queued=max(0, len(self._open) - running),
            tokens_queued=self._queue.tokens,
            tokens_per_s=self._meter.rate(time.monotonic()),
        )

    def _live(self, setup: Callable[[], BatchLimits], ready: "asyncio.Future[None]") -> None:
        try:
            self._limits = setup()
        except Exception as error:  # noqa: BLE001 - the boundary of the thread: the caller of start() gets it
            self._call_loop(_set_exception, ready, error)
            return
        self._queue = BatchQueue(self._limits)
        self._call_loop(_set_result, ready, None)
        while self._receive():
            self._prepare_enough()
            self._run_next()
            self._deliver()

    def _receive(self) -> bool:
        """Take in what has arrived; wait for it only when there is nothing else to do. False: stop."""
        wait = not self._unprepared and not self._queue
        with contextlib.suppress(queue.Empty):
            while True:
                request = self._inbox.get(block=wait)
                wait = False
                if request is None:
                    return False
                if request.cancelled:
                    self._queue.drop(request)
                else:
                    self._unprepared.append(request)
        return True

    def _prepare_enough(self) -> None:
        """Prepare what a full batch needs, and of whatever has just arrived at least a first slice."""
        while self._unprepared:
            self._prepare_slice()
            if self._queue.tokens >= self._limits.max_tokens or len(self._queue) >= self._limits.max_items:
                return

    def _prepare_slice(self) -> None:
        requests, inputs = self._next_slice()
        if not inputs:
            return
        for request, item in zip(requests, self._attempt(self._prepare, inputs, requests), strict=False):
            if isinstance(item, XinferError):
                self._finish(request, item)
            elif not request.over:
                self._queue.add(Piece(request, request.prepared, item.tokens, item.payload))
                request.tokens += item.tokens
            request.prepared += 1

    def _next_slice(self) -> tuple[list[Request], list[Any]]:
        """The inputs to prepare next, each with its request: an equal share of every request."""
        share = max(1, PREPARED_AT_ONCE // len(self._unprepared))
        requests: list[Request] = []
        inputs: list[Any] = []
        for _ in range(min(len(self._unprepared), PREPARED_AT_ONCE)):
            request = self._unprepared.popleft()
            if request.over:
                continue
            slice_ = request.inputs[request.prepared : request.prepared + share]
            inputs += slice_
            requests += [request] * len(slice_)
            if request.prepared + share < len(request.inputs):
                self._unprepared.append(request)
        return requests, inputs

    def _run_next(self) -> None:
        batch = self._queue.next_batch()
        if not batch:
            return
        owners = [piece.owner for piece in batch]
        self._running = len(set(owners))
        results = self._attempt(self._run, [piece.payload for piece in batch], owners)
        for piece, result in zip(batch, results, strict=False):
            request = piece.owner
            if isinstance(result, XinferError):
                self._finish(request, result)
                continue
            request.results[piece.index] = result
            request.missing -= 1
            if not request.missing and request.error is None:
                self._finish(request)
        self._meter.add(time.monotonic(), sum(piece.tokens for piece in batch))
        self._running = 0

    def _attempt(
        self, function: Callable[[Sequence[Any]], Sequence[Any]], inputs: Sequence[Any], requests: Sequence[Request]
    ) -> Sequence[Any]:
        """What the engine makes of some inputs; nothing when it fails, and then exactly their requests fail."""
        try:
            results = function(inputs)
            assert len(results) == len(inputs), "an engine gives one result for each input"
        except Exception as error:
            logger.exception("the engine failed on %d inputs", len(inputs))
            for request in set(requests):
                self._finish(request, EngineFailed(f"the engine failed on this request: {describe(error)}"))
            return ()
        return results

    def _finish(self, request: Request, error: XinferError | None = None) -> None:
        if error is not None:
            if request.error is not None:
                return
            request.error = error
            self._queue.drop(request)
        self._finished.append(request)

    def _deliver(self) -> None:
        """Hand back everything that this round finished, with one wake-up of the event loop."""
        if self._finished:
            self._call_loop(_settle, self._finished)
            self._finished = []

    def _call_loop(self, function: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(function, *args)


def _settle(requests: Iterable[Request]) -> None:
    for request in requests:
        if request.error is not None:
            _set_exception(request.done, request.error)
        else:
            _set_result(request.done, Answer(request.results, request.tokens))


def _set_result(future: "asyncio.Future[Any]", result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: "asyncio.Future[Any]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _closed() -> NotReady:
    return NotReady("the model is being stopped", retry_after=1)


class BatchEngine(ABC):
    """Base class of batch engines. A subclass gives what the ``Engine`` contract asks for, and the three below."""

    def __init__(self) -> None:
        self._worker: BatchWorker | None = None

    @abstractmethod
    def open(self, spec: ModelSpec, options: dict[str, Any], grant: Grant, progress: Progress) -> BatchLimits:
        """Load the model. Runs in the thread that later runs the batches, as the other two do."""

    @abstractmethod
    def prepare(self, inputs: Sequence[Any]) -> Sequence[Prepared | XinferError]:
        """Make inputs of any requests ready to run (tokenise them). An error is the answer to its request."""

    @abstractmethod
    def run(self, payloads: Sequence[Any]) -> Sequence[Any]:
        """One result for each payload; an ``XinferError`` fails the request of that payload.

        If it raises, the requests of this batch fail, and no others.
        """

    async def load(self, spec: ModelSpec, options: dict[str, Any], grant: Grant, progress: Progress) -> None:
        """See ``Engine.load``."""
        self._worker = BatchWorker(self.prepare, self.run)
        await self._worker.start(lambda: self.open(spec, options, grant, progress))

    async def submit(self, inputs: Sequence[Any]) -> Answer:
        """See ``BatchWorker.submit``."""
        if self._worker is None:
            raise NotReady("the model is not loaded yet", retry_after=1)
        return await self._worker.submit(inputs)

    def load_report(self) -> Load:
        """See ``Engine.load_report``."""
        return Load() if self._worker is None else self._worker.load()

    def failure(self) -> str:
        """See ``Engine.failure``: an error ends the requests of its batch, never the engine."""
        return ""

    async def close(self) -> None:
        """See ``Engine.close``."""
        if self._worker is not None:
            await self._worker.close()
