"""The thread in which all recordings take turns, a window each."""

import asyncio
import contextlib
import queue
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING

from xinfer.engines.base import Load
from xinfer.errors import EngineFailed, NotReady, XinferError, describe
from xinfer.protocols.transcriptions import Transcript

if TYPE_CHECKING:
    from xinfer.engines.whisper.listener import Listener

Open = Callable[[Callable[[str], None], Callable[[], bool]], "Listener"]
"""Makes the listener for a recording, in the thread: ``say`` and ``is_over`` as that wants them."""


class Task:
    """One recording on its way through the thread; its news are for the event loop."""

    def __init__(self, open_: Open) -> None:
        self.open = open_
        self.over = False
        """Nobody waits for it any more, or it is done. Set by the event loop, read by the thread."""
        self.listener: Listener | None = None
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[str | Transcript | XinferError] = asyncio.Queue()

    def tell(self, news: str | Transcript | XinferError) -> None:
        """From the thread: a piece of the text, or how it ended."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(self._news.put_nowait, news)

    async def news(self) -> AsyncGenerator[str | Transcript, None]:
        """Pieces of the text, and at the end the transcript.

        Raises:
            XinferError: it could not be made.
        """
        while True:
            found = await self._news.get()
            if isinstance(found, XinferError):
                raise found
            yield found
            if isinstance(found, Transcript):
                return


class Worker:
    """Has its thread until ``close``."""

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._open: set[Task] = set()
        self._thread = threading.Thread(target=self._live, name="whisper", daemon=True)
        self._closed = False
        self._thread.start()

    def load(self) -> Load:
        """One recording runs at a time, the rest waits for its turn."""
        return Load(running=min(1, len(self._open)), queued=max(0, len(self._open) - 1))

    async def transcribe(self, open_: Open) -> AsyncGenerator[str | Transcript, None]:
        """See ``Task.news``. Closed early, it stops within a token.

        Raises:
            XinferError: it could not be made.
            NotReady: the engine is being closed.
        """
        if self._closed:
            raise _closing()
        task = Task(open_)
        self._open.add(task)
        self._inbox.put(task)
        try:
            async for news in task.news():
                yield news
        finally:
            task.over = True
            self._open.discard(task)

    async def close(self) -> None:
        """End the thread, after the token that it works on; what still waits fails."""
        self._closed = True
        for task in self._open:
            task.over = True
            task.tell(_closing())
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    # --- the thread ---

    def _live(self) -> None:
        tasks: deque[Task] = deque()
        while True:
            with contextlib.suppress(queue.Empty):
                while True:
                    task = self._inbox.get(block=not tasks)
                    if task is None:
                        return
                    tasks.append(task)
            task = tasks.popleft()
            if _advance(task):
                tasks.append(task)


def _advance(task: Task) -> bool:
    """Have it listen to one more window; whether there may be further ones."""
    if task.over:
        return False
    try:
        if task.listener is None:
            task.listener = task.open(task.tell, lambda: task.over)
        transcript = task.listener.step()
    except XinferError as error:
        task.tell(error)
        return False
    except Exception as error:  # noqa: BLE001 - the engine's thread: the client gets it
        task.tell(EngineFailed(f"the engine failed on this recording: {describe(error)}"))
        return False
    if transcript is not None:
        task.tell(transcript)
    return transcript is None


def _closing() -> NotReady:
    return NotReady("the model is being stopped", retry_after=1)
