import asyncio


class Metronome:
    """Beats for all streams of an engine at once, like the steps of a batching engine. Rests when nobody waits.

    Args:
        rate: beats per second; 0 means as fast as the event loop turns.
    """

    def __init__(self, rate: float) -> None:
        self._interval = 1.0 / rate if rate > 0 else 0.0
        self._waiting: list[asyncio.Future[None]] = []
        self._timer: asyncio.Handle | None = None
        self._next = 0.0

    def beat(self) -> "asyncio.Future[None]":
        """The next beat, to be awaited."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append(future)
        if self._timer is None:
            now = loop.time()
            self._next = max(self._next + self._interval, now)
            self._timer = (
                loop.call_later(self._next - now, self._strike) if self._interval else loop.call_soon(self._strike)
            )
        return future

    def _strike(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._timer = None
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def stop(self) -> None:
        """No more beats; whoever waits is cancelled."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for future in self._waiting:
            future.cancel()
