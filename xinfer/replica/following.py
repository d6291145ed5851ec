"""A follower in a gang that is asked to end: the leader needs it for what it has begun to answer."""

import asyncio

LOOK_EVERY_S = 0.25
"""How often it looks whether the leader is still there: nobody tells it."""


async def leader_ended(rendezvous: str) -> None:
    """Returns when nobody listens at the rendezvous (host:port) any more, where the leader does as long as it lives."""
    host, _, port = rendezvous.rpartition(":")
    while True:
        try:
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except OSError:
            return
        writer.close()
        await asyncio.sleep(LOOK_EVERY_S)
