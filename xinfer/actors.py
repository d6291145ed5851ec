"""xoscar as this house uses it: authenticated, lean, and with calls that always come to an end."""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, TypeVar

import xoscar as xo
from xoscar.errors import ServerClosed
from xoscar.serialization.torch import TorchTensorSerializer

from xinfer.errors import XinferError, describe
from xinfer.processes import free_port
from xinfer.settings import Settings, authenticate_actors

T = TypeVar("T")

CALL_TIMEOUT_S = 5.0
"""For calls that a healthy process answers at once."""
PORT_ATTEMPTS = 5
"""A port that was free a moment ago may be taken when the pool binds it."""


class Unanswered(Exception):
    """The other side is gone, does not answer in time, or broke while it answered."""


def prepare(settings: Settings) -> None:
    """Set xoscar up in this process. Call before the first actor pool or reference.

    Raises:
        OSError: the token file cannot be read or made.
    """
    authenticate_actors(settings)
    # Where torch is installed xoscar imports it with the first pool, to be ready for tensors: 1.5 s and 180 MiB in
    # every process. No message of ours carries one.
    TorchTensorSerializer.unregister("torch.Tensor")
    # Callers that are gone before their answer are everyday life here: any process may be killed, and long-polls are
    # always under way. xoscar shows a traceback for each, and asyncio a warning for every write to such a connection.
    logging.getLogger("xoscar.backends.pool").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.ERROR)


async def open_pool(host: str, port: int = 0) -> "xo.MainActorPoolType":
    """An actor pool of this process on ``port`` of ``host``, or on a free one.

    Raises:
        OSError: no port could be bound.
    """
    asyncio.get_running_loop().set_exception_handler(_on_unhandled)
    bracketed = f"[{host}]" if ":" in host else host
    if port:
        return await _pool(f"{bracketed}:{port}")
    for _ in range(PORT_ATTEMPTS - 1):
        try:
            return await _pool(f"{bracketed}:{free_port(host)}")
        except OSError:
            continue
    return await _pool(f"{bracketed}:{free_port(host)}")


async def _pool(address: str) -> "xo.MainActorPoolType":
    # An internal address would be a socket in the user's home, for processes of this pool, and there are none. Whoever
    # is killed would leave it there for ever.
    return await xo.create_actor_pool(address, n_process=0, enable_internal_addresses=[False])


def _on_unhandled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What no task was there to see. A connection that ended with calls on it is no news: see ``prepare``."""
    if not isinstance(context.get("exception"), ConnectionError | ServerClosed):
        loop.default_exception_handler(context)


async def answer(call: Awaitable[T], timeout_s: float = CALL_TIMEOUT_S) -> T:
    """The result of an actor call, or the XinferError that it ended with.

    Raises:
        Unanswered: no answer came within ``timeout_s`` seconds, or none will come.
    """
    task = asyncio.ensure_future(call)
    task.add_done_callback(_retrieve)
    try:
        # asyncio.wait_for would wait for the cancel to arrive, and a process that hangs never takes it.
        await asyncio.wait({task}, timeout=timeout_s)
    finally:
        answered = task.done()
        task.cancel()
    if not answered:
        raise Unanswered(f"no answer within {timeout_s:g} s")
    try:
        return task.result()
    except XinferError:
        raise
    except asyncio.CancelledError:
        # A pool that shuts down cancels what it is answering, and that arrives here as if we had cancelled it.
        raise Unanswered("the other side shut down") from None
    except Exception as error:  # the boundary to other processes: whatever breaks there or on the way is no answer
        raise Unanswered(describe(error)) from error


def _retrieve(task: "asyncio.Future[Any]") -> None:
    """Nobody looks at a call that was given up; asyncio would complain about its error."""
    if not task.cancelled():
        task.exception()
