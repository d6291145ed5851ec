import asyncio
from collections.abc import Callable

from xinfer.channel import wire


class Watchdog:
    """Finds out that the other side of a connection is silent while calls are under way.

    A process that is stopped, or a machine that is unreachable, closes no connection. Counts its own ticks instead of
    reading a clock: a process that was itself stopped and wakes up late blames nobody.

    Args:
        busy: called every PING_EVERY_S; whether calls are under way. False ends the watch.
        give_up: called after MAX_MISSED such times in a row with nothing heard.
    """

    def __init__(self, busy: Callable[[], bool], give_up: Callable[[], None]) -> None:
        self.heard = False
        """To be set whenever something comes."""
        self._busy = busy
        self._give_up = give_up
        self._missed = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def awake(self) -> bool:
        """Whether it is watching."""
        return self._timer is not None

    def start(self) -> None:
        """A call began; harmless while it is watching already."""
        if self._timer is None:
            self._missed = 0
            self._wait()

    def stop(self) -> None:
        """The connection has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        self.heard = False
        self._timer = asyncio.get_running_loop().call_later(wire.PING_EVERY_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self._busy():
            return
        self._missed = 0 if self.heard else self._missed + 1
        if self._missed >= wire.MAX_MISSED:
            self._give_up()
        else:
            self._wait()
