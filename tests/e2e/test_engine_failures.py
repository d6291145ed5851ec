"""What every engine does when things go wrong: no model to load, a kill in the middle, an end. It leaves nothing."""

import asyncio
import contextlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from e2e.conftest import Site, wait_for
from e2e.demo_chat import UID, ask, story
from e2e.engine_cases import FOLDER, LOADING_S, Case, present, share_environments


@pytest.fixture(scope="module", params=present(), ids=lambda case: case.name)
def case(request) -> Case:
    return request.param


@pytest.fixture(scope="module")
def server(tmp_path_factory, open_site, case):
    root = tmp_path_factory.mktemp("failures")
    share_environments(root)
    with open_site(root, recover_wait_s=LOADING_S) as site:
        site.local()
        case.start(site)
        yield site


def family(site: Site) -> list[psutil.Process]:
    """The replica's process first, then all that it has started. Some of them hide that they belong to the site."""
    replica = psutil.Process(site.ready_pids(UID)[f"{UID}-0"])
    return [replica, *replica.children(recursive=True)]


def computing(processes: list[psutil.Process]) -> psutil.Process:
    """The one that holds the weights: the replica itself, or a process of the library."""
    return max(processes, key=lambda process: process.memory_info().rss)


SHARED_MEMORY = re.compile(r"/dev/shm/\S+")


def traces(processes: list[psutil.Process]) -> set[Path]:
    """Files in shared memory and sockets that these processes have."""
    found: set[Path] = set()
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            maps = Path(f"/proc/{process.pid}/maps").read_text()
            found |= {Path(name) for name in SHARED_MEMORY.findall(maps)}
            found |= {Path(end.laddr) for end in process.net_connections("unix") if end.laddr}
    return {path for path in found if path.is_absolute() and path.exists()}


def doors(processes: list[psutil.Process]) -> set[int]:
    """The TCP ports that they listen on."""
    ends = [end for process in processes for end in process.net_connections("tcp")]
    return {end.laddr.port for end in ends if end.status == psutil.CONN_LISTEN}


def alive(processes: list[psutil.Process]) -> list[str]:
    """Those that still run, by their command lines."""
    return [" ".join(process.cmdline()) for process in processes if process.is_running()]


def until_back(site: Site, before: int) -> None:
    wait_for(
        lambda: site.ready_pids(UID).get(f"{UID}-0", before) != before, "another process took its place", LOADING_S
    )


def cut_off(folder: Path, weights: Path) -> str:
    """A download that broke off."""
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    return weights.name.replace(".", r"\.") + "|safetensors"


def of_another_size(folder: Path, weights: Path) -> str:
    """Weights that are not those that the configuration describes: only the library finds that out."""
    if weights.suffix == ".gguf":
        weights.write_bytes(weights.read_bytes().replace(b"blk.0.attn_q.weight", b"blk.0.attn_z.weight"))
        return r"blk\.0\.attn_q\.weight"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": config["hidden_size"] * 2}))
    return "size|shape|mismatch"


@pytest.mark.parametrize("damage", [cut_off, of_another_size])
def test_a_model_that_cannot_be_loaded_says_why_and_leaves_nothing(server, case, tmp_path, damage):
    broken = tmp_path / "broken"
    shutil.copytree(FOLDER, broken)
    for file in broken.iterdir():
        file.chmod(0o644)
    weights = broken / ("demo-chat.gguf" if case.source.is_file() else "model.safetensors")
    reason = damage(broken, weights)
    source = weights if case.source.is_file() else broken
    before = {process.pid for process in server.processes()}
    answer = server.call("POST", "/v1/models", json={"model_name": "broken", **case.launch(source)}, timeout=LOADING_S)
    assert 400 <= answer.status_code <= 500
    assert re.search(reason, answer.json()["error"]["message"]), answer.text
    wait_for(lambda: {process.pid for process in server.processes()} <= before, "none of its processes is left")


@pytest.mark.parametrize("victim", ["the engine", "the replica"])
def test_killed_in_the_middle_it_ends_all_streams_with_an_error_and_comes_back(server, case, victim):
    """What has no byte of its answer yet, and what is asked before anybody notices, is answered by its successor."""
    processes = family(server)
    left = traces(processes)

    async def stream(client: openai.AsyncOpenAI, begun: asyncio.Event) -> str:
        try:
            async for chunk in await client.chat.completions.create(**story(1800, stream=True)):
                if chunk.choices and chunk.choices[0].delta.content:
                    begun.set()
        except openai.APIError as error:
            return error.message
        return ""

    async def kill_in_the_middle() -> tuple[list[str], list[Any]]:
        async with server.async_client() as client:
            begun = [asyncio.Event() for _ in range(4)]
            streams = [asyncio.create_task(stream(client, event)) for event in begun]
            await asyncio.gather(*[event.wait() for event in begun])
            wholes = [asyncio.create_task(client.chat.completions.create(**story(1800)))]
            (computing(processes) if victim == "the engine" else processes[0]).kill()
            wholes.append(asyncio.create_task(client.chat.completions.create(**ask("Hello!"))))
            reasons = await asyncio.wait_for(asyncio.gather(*streams), 60)
            return reasons, await asyncio.gather(*wholes)

    reasons, answers = asyncio.run(kill_in_the_middle())
    assert all(reasons), "none of them looks as if it were complete"
    assert all(answer.choices[0].message.content for answer in answers)
    until_back(server, processes[0].pid)
    assert psutil.wait_procs(processes, timeout=30)[1] == [], "nothing of the first one is left"
    assert not {path for path in left if path.exists()}
    with server.client() as client:
        assert client.chat.completions.create(**ask("Hello!")).choices[0].message.content


def test_terminated_it_leaves_no_process_socket_or_shared_memory(server, case):
    processes = family(server)
    files, ports = traces(processes), doors(processes)
    assert ports or files
    server.terminate(UID)
    assert psutil.wait_procs(processes, timeout=30)[1] == []
    assert {path for path in files if path.exists()} == set()
    for port in ports:
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}", trust_env=False)
    case.start(server)
    with server.client() as client:
        assert client.chat.completions.create(**ask("Hello!")).choices[0].message.content


def test_a_server_that_is_stopped_while_it_answers_leaves_nothing(server, case):
    """The last one of this module: it ends the server."""
    processes = family(server)
    files = traces(processes)
    (program,) = server.programs
    with server.client() as client:
        stream = client.chat.completions.create(**story(1800, stream=True))
        next(iter(stream))
        assert program.stop() == 0
        with contextlib.suppress(openai.APIError, httpx.HTTPError):
            stream.close()
    assert psutil.wait_procs(processes, timeout=30)[1] == [], alive(processes)
    assert {path for path in files if path.exists()} == set()
    assert server.processes() == []
