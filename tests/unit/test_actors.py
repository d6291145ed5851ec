import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from xinfer.actors import Unanswered, answer
from xinfer.errors import NotFound

LEAN = """
import asyncio, sys
from xinfer.actors import open_pool, prepare
from xinfer.settings import Settings

async def main():
    async with await open_pool("127.0.0.1"):
        print("torch" in sys.modules)

prepare(Settings.from_env())
asyncio.run(main())
"""


def test_an_actor_pool_does_not_import_torch(tmp_path: Path) -> None:
    env = {"XINFER_HOME": str(tmp_path), "XINFER_TOKEN_FILE": str(tmp_path / "token")}
    ran = subprocess.run([sys.executable, "-c", LEAN], env=env, capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("False\n", "")


def test_an_answer_its_own_error_or_unanswered() -> None:
    async def fine() -> int:
        return 1

    async def refuses() -> None:
        raise NotFound("no")

    async def breaks() -> None:
        raise KeyError("bug")

    async def shuts_down() -> None:
        raise asyncio.CancelledError

    async def hangs() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            await asyncio.get_running_loop().create_future()  # as a call to a stopped process: it takes no cancel

    async def scenario() -> None:
        assert await answer(fine()) == 1
        with pytest.raises(NotFound):
            await answer(refuses())
        for broken in (breaks(), shuts_down()):
            with pytest.raises(Unanswered):
                await answer(broken)
        with pytest.raises(Unanswered, match=r"no answer within 0.01 s"):
            await answer(hangs(), 0.01)

    asyncio.run(scenario())


def test_being_cancelled_is_no_answer_of_the_other_side() -> None:
    async def scenario() -> None:
        async def hangs() -> None:
            await asyncio.get_running_loop().create_future()

        task = asyncio.create_task(answer(hangs()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
