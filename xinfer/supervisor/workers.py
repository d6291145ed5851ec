"""Asking several workers the same."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import xoscar as xo

from xinfer.actors import Unanswered, answer
from xinfer.errors import NotFound, XinferError
from xinfer.protocol import WORKER_UID, WorkerHello
from xinfer.supervisor.capacity import answers_to, worker_names

Ask = Callable[[Any], Awaitable[Any]]
"""A call of a worker's actor."""


def named_workers(living: Sequence[WorkerHello], names: Sequence[str]) -> list[WorkerHello]:
    """Those of the living workers that are named; none named: all of them.

    Raises:
        NotFound: there is no such worker.
    """
    for name in names:
        if not any(answers_to(hello, name) for hello in living):
            raise NotFound(f"no living worker is called {name!r}; there are: {worker_names(living)}")
    return [hello for hello in living if not names or any(answers_to(hello, name) for name in names)]


async def ask_workers(
    hellos: Sequence[WorkerHello], ask: Ask
) -> tuple[dict[str, Any], dict[str, XinferError | Unanswered]]:
    """The answers of workers by their names, and the errors of the others."""

    async def one(hello: WorkerHello) -> Any:
        worker = await answer(xo.actor_ref(uid=WORKER_UID, address=hello.address))
        return await answer(ask(worker))

    results = await asyncio.gather(*(one(hello) for hello in hellos), return_exceptions=True)
    answers: dict[str, Any] = {}
    errors: dict[str, XinferError | Unanswered] = {}
    for hello, result in zip(hellos, results, strict=True):
        if isinstance(result, XinferError | Unanswered):
            errors[hello.name] = result
        elif isinstance(result, BaseException):
            raise result
        else:
            answers[hello.name] = result
    return answers, errors
