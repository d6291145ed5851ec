"""How a follower notices that its leader is gone."""

import asyncio

from xinfer.processes import free_port
from xinfer.replica.following import leader_ended


def test_it_is_over_when_nobody_listens_where_the_members_met():
    async def scenario():
        calls = asyncio.Queue()

        async def receive(_, writer):
            calls.put_nowait(None)
            writer.close()

        server = await asyncio.start_server(receive, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        waiting = asyncio.create_task(leader_ended(f"{host}:{port}"))
        await calls.get()
        await calls.get()
        assert not waiting.done()
        server.close()
        await server.wait_closed()
        await waiting

    asyncio.run(scenario())


def test_one_that_never_was_there_is_gone():
    asyncio.run(leader_ended(f"127.0.0.1:{free_port('127.0.0.1')}"))
