"""The thread that runs the model: requests come in between two steps, and new tokens of all go out in one hand-over.

Waking the event loop costs as much as some small models need for a token, so tokens that nobody reads along wait for
the next hand-over that has a reason.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec

from xinfer.engines.base import Load
from xinfer.engines.token_engine.sequence import Progress, Receiver, Sequence
from xinfer.errors import EngineFailed, describe

log = logging.getLogger(__name__)

RATE_WINDOW_S = 2.0
"""Over how long the reported tokens per second are averaged."""


class Runner(Protocol):
    """Continues sequences with a model. Used by one thread only, except for ``report``."""

    def add(self, sequence: Sequence) -> None:
        """Take a sequence; it waits until there is room."""

    def discard(self, sequence: Sequence) -> None:
        """Drop a sequence, whether it waits or runs; nothing happens if it is complete."""

    def step(self) -> list[Progress]:
        """Do a bounded piece of work, and return every token that it made. Complete sequences are dropped."""

    def has_work(self) -> bool:
        """Whether any sequence waits or runs."""

    def report(self) -> Load:
        """How busy it is; may be asked from another thread."""


class StepLoop:
    """Runs a ``Runner`` in a thread of its own.

    The methods belong to the event loop that made it. If the runner raises, every request ends with ``EngineFailed``,
    and so does every later one: a model whose state is in doubt answers nothing.
    """

    def __init__(self, runner: Runner, name: str) -> None:
        self._runner = runner
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[tuple[bool, Sequence]] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._failure: EngineFailed | None = None
        self._rate = _Rate()
        self._tokens_made = 0
        """Since it began. Only the thread changes it."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, sequences: Iterable[Sequence]) -> None:
        """Start sequences.

        Raises:
            EngineFailed: the thread has ended.
        """
        if self._failure is not None:
            raise self._failure
        self._post((True, sequence) for sequence in sequences)

    def cancel(self, sequences: Iterable[Sequence]) -> None:
        """Stop working on sequences, before the next step."""
        self._post((False, sequence) for sequence in sequences)

    def report(self) -> Load:
        """The runner's load, with what it has not seen yet, and the recent speed."""
        load = self._runner.report()
        arriving = sum(1 for starts, _ in self._inbox.copy() if starts)
        return msgspec.structs.replace(
            load, queued=load.queued + arriving, tokens_per_s=self._rate.current(self._tokens_made)
        )

    @property
    def failure(self) -> str:
        """Why the thread has ended; empty while it runs."""
        return "" if self._failure is None else self._failure.message

    def close(self) -> None:
        """End the thread and wait for it. Sequences that are not complete fail."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _post(self, messages: Iterable[tuple[bool, Sequence]]) -> None:
        with self._wake:
            self._inbox.extend(messages)
            self._wake.notify()

    # --- in the thread ---

    def _run(self) -> None:
        running: set[Sequence] = set()
        made: list[Progress] = []
        reason = "the engine was closed"
        try:
            while self._take_messages(running):
                if not self._runner.has_work():
                    made.clear()  # it is of sequences that nobody waits for any more
                    continue
                progress = self._runner.step()
                made += progress
                self._tokens_made += len(progress)
                running.difference_update([item.sequence for item in progress if item.ending is not None])
                if any(item.ending is not None or item.sequence.receiver.is_eager for item in progress):
                    self._hand_over(self._deliver, made)
                    made = []
        except Exception as error:  # the boundary of the thread: nobody else would tell those who wait
            log.exception("the engine failed")
            reason = f"the engine failed: {describe(error)}"
        self._failure = EngineFailed(reason)
        self._hand_over(self._fail_all, {sequence.receiver for sequence in running})

    def _hand_over(self, callback: Callable[[Any], None], argument: object) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(callback, argument)

    def _take_messages(self, running: set[Sequence]) -> bool:
        """Wait for work, and hand what came in to the runner. False: the loop is closing."""
        if not self._inbox and self._runner.has_work():
            return not self._closing
        with self._wake:
            self._wake.wait_for(lambda: self._closing or self._inbox or self._runner.has_work())
            messages = list(self._inbox)
            self._inbox.clear()
        for starts, sequence in messages:
            if starts:
                running.add(sequence)
                self._runner.add(sequence)
            elif sequence in running:
                running.remove(sequence)
                self._runner.discard(sequence)
        return not self._closing

    # --- on the event loop ---

    @staticmethod
    def _deliver(progress: list[Progress]) -> None:
        for item in progress:
            item.sequence.receiver.receive(item)

    def _fail_all(self, receivers: set[Receiver]) -> None:
        assert self._failure is not None
        # From here on submit() refuses, so nothing can slip in behind what is in the inbox now.
        receivers.update(sequence.receiver for starts, sequence in self._inbox if starts)
        self._inbox.clear()
        for receiver in receivers:
            receiver.fail(self._failure)


class _Rate:
    """Tokens per second over the last moments."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._tokens = 0
        self._last = 0.0

    def current(self, tokens: int) -> float:
        """The rate, where so many have been made since the beginning."""
        elapsed = time.monotonic() - self._since
        if elapsed >= RATE_WINDOW_S:
            self._last = (tokens - self._tokens) / elapsed
            self._since += elapsed
            self._tokens = tokens
        return self._last
