"""The members of echo's gangs, which find each other over real connections."""

import asyncio

import pytest

from xinfer.devices import Seat
from xinfer.engines.echo.gang import Gang
from xinfer.errors import EngineFailed
from xinfer.processes import free_port

GENERATION = 7


@pytest.fixture
def rendezvous():
    return f"127.0.0.1:{free_port('127.0.0.1')}"


def members(rendezvous, size, generation=GENERATION):
    return [Gang(Seat(gang="m-0", rank=rank, size=size, rendezvous=rendezvous), generation) for rank in range(size)]


def silent(_):
    """Nobody looks."""


async def until_broken(gang):
    while not gang.failure:  # noqa: ASYNC110  engines are asked for it, and tell nobody
        await asyncio.sleep(0)
    return gang.failure


def test_they_come_in_any_order_and_are_there_together(rendezvous):
    async def scenario():
        gangs = members(rendezvous, 3)
        stages = []
        joins = [asyncio.create_task(gang.gather(stages.append)) for gang in reversed(gangs)]
        await asyncio.gather(*joins)
        assert sorted(stages) == ["waiting for 2 other workers", *["waiting for the leader"] * 2]
        assert [gang.failure for gang in gangs] == ["", "", ""]
        await asyncio.gather(*(gang.close() for gang in gangs))

    asyncio.run(scenario())


@pytest.mark.parametrize("gone", [0, 2])
def test_when_one_is_gone_all_the_others_notice(rendezvous, gone):
    async def scenario():
        gangs = members(rendezvous, 3)
        await asyncio.gather(*(gang.gather(silent) for gang in gangs))
        await gangs[gone].close()
        left = [gang for gang in gangs if gang is not gangs[gone]]
        reasons = await asyncio.gather(*map(until_broken, left))
        assert {f"the connection to {'the leader' if gone == 0 else 'rank 2'} of the gang is lost"} <= set(reasons)
        await asyncio.gather(*(gang.close() for gang in left))

    asyncio.run(scenario())


def test_strangers_and_members_of_another_generation_do_not_count(rendezvous):
    async def scenario():
        leader, follower = members(rendezvous, 2)
        joining = asyncio.create_task(leader.gather(silent))
        host, _, port = rendezvous.rpartition(":")
        earlier = members(rendezvous, 2, GENERATION - 1)[1]
        with pytest.raises(EngineFailed, match="before everybody was there"):
            await earlier.gather(silent)
        await earlier.close()
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.read() == b""
        writer.close()
        assert not joining.done()
        await asyncio.gather(joining, follower.gather(silent))
        await asyncio.gather(leader.close(), follower.close())

    asyncio.run(scenario())


def test_one_that_goes_before_all_are_there_breaks_it(rendezvous):
    async def scenario():
        leader = members(rendezvous, 3)[0]
        listening = asyncio.Event()
        joining = asyncio.create_task(leader.gather(lambda _: listening.set()))
        await listening.wait()
        host, _, port = rendezvous.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b'{"gang": "m-0", "generation": 7, "rank": 1}\n')
        await writer.drain()
        writer.close()
        with pytest.raises(EngineFailed, match="rank 1"):
            await joining
        await leader.close()

    asyncio.run(scenario())
