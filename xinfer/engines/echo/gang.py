"""The members of a gang, held together by one connection from each follower to the leader.

There is nothing to compute together, but everything that can go wrong between them does: members come in any order,
strangers call, and whoever dies takes its connection with it.
"""

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from xinfer.devices import Seat
from xinfer.errors import EngineFailed

CALL_AGAIN_S = 0.05
"""Until a leader that does not listen yet is called again."""
WELCOME = b"complete\n"
"""What the leader says to everybody once all are there."""


class Introduction(msgspec.Struct, frozen=True):
    """The line that a follower begins with."""

    gang: str
    generation: int
    rank: int


class Gang:
    """One member's side. ``failure`` says why it is not complete any more; empty while it is."""

    def __init__(self, seat: Seat, generation: int) -> None:
        self.failure = ""
        self._seat = seat
        self._generation = generation
        self._writers: dict[int, asyncio.StreamWriter] = {}
        """To the others, by rank."""
        self._complete = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._watch: asyncio.Task[None] | None = None

    async def gather(self, waiting: Callable[[str], None]) -> None:
        """Find the others at the rendezvous; returns when all are there. ``waiting`` is told for whom it waits.

        Raises:
            EngineFailed: one that had come is gone again.
            OSError: the leader cannot listen there.
        """
        host, _, port = self._seat.rendezvous.rpartition(":")
        if self._seat.leads:
            self._server = await asyncio.start_server(self._receive, host.strip("[]"), int(port))
            waiting(f"waiting for {self._seat.size - 1} other workers")
            await self._complete.wait()
        else:
            waiting("waiting for the leader")
            await self._call(host.strip("[]"), int(port))
        if self.failure:
            raise EngineFailed(self.failure)

    async def close(self) -> None:
        """Leave; the others notice."""
        if self._watch is not None:
            self._watch.cancel()
        if self._server is not None:
            self._server.close()
        for writer in self._writers.values():
            writer.close()

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A follower, or a stranger, calls the leader."""
        try:
            who = msgspec.json.decode(await reader.readline(), type=Introduction)
        except (msgspec.MsgspecError, ValueError, OSError):
            writer.close()
            return
        expected = 0 < who.rank < self._seat.size and who.rank not in self._writers
        if (who.gang, who.generation) != (self._seat.gang, self._generation) or not expected:
            writer.close()
            return
        self._writers[who.rank] = writer
        if len(self._writers) == self._seat.size - 1:
            for other in self._writers.values():
                other.write(WELCOME)
            self._complete.set()
        await self._until_gone(reader, f"rank {who.rank}")

    async def _call(self, host: str, port: int) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection(host, port)
                break
            except OSError:
                await asyncio.sleep(CALL_AGAIN_S)
        self._writers[0] = writer
        introduction = Introduction(self._seat.gang, self._generation, self._seat.rank)
        writer.write(msgspec.json.encode(introduction) + b"\n")
        if await _line(reader) != WELCOME:
            raise EngineFailed("the leader went away before everybody was there")
        self._watch = asyncio.create_task(self._until_gone(reader, "the leader"))

    async def _until_gone(self, reader: asyncio.StreamReader, who: str) -> None:
        """Wait for the end of a connection; from then on the gang is of no use."""
        while await _line(reader):
            pass
        self.failure = self.failure or f"the connection to {who} of the gang is lost"
        self._complete.set()
        for writer in self._writers.values():
            writer.close()


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The next line; nothing: the connection is over."""
    with contextlib.suppress(OSError, ValueError):
        return await reader.readline()
    return b""
