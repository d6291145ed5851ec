"""When the thread that runs a model hands its tokens over."""

import asyncio
import threading

from xinfer.engines.base import Load
from xinfer.engines.token_engine import Ending, Progress, Sequence
from xinfer.engines.token_engine.loop import StepLoop
from xinfer.generation.sampling import Sampling

WAIT_S = 10


class Paced:
    """A runner that makes one token of every sequence in each step, when it is let."""

    def __init__(self) -> None:
        self.active: list[Sequence] = []
        self.permits = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)

    def add(self, sequence: Sequence) -> None:
        self.active.append(sequence)

    def discard(self, sequence: Sequence) -> None:
        self.active.remove(sequence)

    def has_work(self) -> bool:
        return bool(self.active)

    def step(self) -> list[Progress]:
        self.begun.release()
        assert self.permits.acquire(timeout=WAIT_S)
        made = []
        for sequence in list(self.active):
            sequence.generated.append(1)
            ending = sequence.ending_after(1)
            if ending is not None:
                self.active.remove(sequence)
            made.append(Progress(sequence, 1, None, ending))
        return made

    def report(self) -> Load:
        return Load()

    async def steps(self, count: int) -> None:
        """Let it make so many steps, and wait until the next one begins."""
        for _ in range(count):
            self.permits.release()
            assert await asyncio.to_thread(self.begun.acquire, True, WAIT_S)
        await asyncio.sleep(0)


class Reader:
    """Counts what it receives."""

    def __init__(self, *, is_eager: bool) -> None:
        self.is_eager = is_eager
        self.received: list[Progress] = []
        self.ended = asyncio.Event()

    def receive(self, progress: Progress) -> None:
        self.received.append(progress)
        if progress.ending is not None:
            self.ended.set()

    def fail(self, error: BaseException) -> None:
        raise error


def sequence(reader: Reader, tokens: int) -> Sequence:
    return Sequence([1], Sampling(max_tokens=tokens), reader)


def test_tokens_that_nobody_reads_along_wait_for_a_reason():
    async def main() -> None:
        runner = Paced()
        patient, eager = Reader(is_eager=False), Reader(is_eager=True)
        loop = StepLoop(runner, "steps")
        try:
            loop.submit([sequence(patient, 7)])
            assert await asyncio.to_thread(runner.begun.acquire, True, WAIT_S)
            await runner.steps(2)
            assert not patient.received
            loop.submit([sequence(eager, 2)])
            await runner.steps(3)
            await asyncio.wait_for(eager.ended.wait(), WAIT_S)
            assert len(eager.received) == 2
            assert len(patient.received) == 5, "what goes out takes along what has waited"
            await runner.steps(1)
            assert len(patient.received) == 5
            runner.permits.release()
            await asyncio.wait_for(patient.ended.wait(), WAIT_S)
            assert [item.ending for item in patient.received] == [*[None] * 6, Ending.LENGTH]
        finally:
            for _ in range(20):
                runner.permits.release()
            await asyncio.to_thread(loop.close)

    asyncio.run(main())
