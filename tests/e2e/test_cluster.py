"""A supervisor and two workers, and ``kill -9`` for every one of their processes while clients are busy."""

import asyncio
import collections
import concurrent.futures
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import openai
import pytest

UID = "parrot"
TOKENS_PER_S = 40.0
SETTINGS = {"heartbeat_s": 0.5, "worker_timeout_s": 3.0, "settle_s": 20.0, "drain_timeout_s": 10.0}


@dataclass
class Tally:
    """What became of the streams of a load. Only begun ones may be interrupted, and only by an error event."""

    complete: int = 0
    interrupted: list[openai.APIError] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


async def stream_once(client: openai.AsyncOpenAI, text: str, tally: Tally) -> None:
    """One stream, every word of it compared with what was asked for."""
    heard = ""
    try:
        stream = await client.chat.completions.create(
            model=UID, messages=[{"role": "user", "content": text}], stream=True
        )
        async for chunk in stream:
            heard += chunk.choices[0].delta.content or ""
    except openai.APIStatusError as error:
        tally.failed.append(f"refused: {error!r}")
    except openai.APIConnectionError as error:
        tally.failed.append(f"after {heard!r}: {error!r} from {error.__cause__!r}")
    except openai.APIError as error:
        # Answers begin with their first byte, so an error within one is only right where some of it was there.
        tally.interrupted.append(error)
        if not text.startswith(heard):
            tally.failed.append(f"{text!r} became {heard!r}")
    else:
        if heard == text:
            tally.complete += 1
        else:
            tally.failed.append(f"{text!r} became {heard!r}")


class Load:
    """Clients in a thread that send one stream after the other until they are told to stop."""

    def __init__(self, site, clients=8):
        self.tally = Tally()
        self._site = site
        self._clients = clients
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self._thread.join()

    async def _run(self) -> None:
        async with self._site.async_client() as client:
            await asyncio.gather(*[self._one_after_the_other(client, number) for number in range(self._clients)])

    async def _one_after_the_other(self, client: openai.AsyncOpenAI, number: int) -> None:
        turn = 0
        while not self._stopping.is_set():
            turn += 1
            await stream_once(client, f"client {number} turn {turn} and nobody else's words in between", self.tally)


class Cluster:
    """The programs of a supervisor and its workers, each of which can be killed and started again."""

    def __init__(self, site, homes):
        self.site = site
        self._homes = homes
        self.supervisor = self._start_supervisor()
        self.site.until_ready(self.supervisor)
        self.workers = [self._start_worker(number) for number in range(len(homes))]

    def until_workers_joined(self, wait) -> None:
        def alive() -> bool:
            workers = self.site.get_or_none("/v1/workers") or []
            return sum(worker["alive"] for worker in workers) == len(self.workers)

        wait(alive, "every worker has joined")

    def restart_supervisor(self) -> None:
        self.supervisor = self._start_supervisor()

    def restart_worker(self, number: int) -> None:
        self.workers[number] = self._start_worker(number)

    def _start_supervisor(self):
        return self.site.serve("xinfer-supervisor", "-p", str(self.site.port))

    def _start_worker(self, number: int):
        argv = ("-e", self.site.url, "--name", f"worker-{number}")
        return self.site.serve("xinfer-worker", *argv, home=self._homes[number])


@contextlib.contextmanager
def running_cluster(site, wait, homes) -> Iterator[Cluster]:
    cluster = Cluster(site, homes)
    cluster.until_workers_joined(wait)
    site.launch("echo", model_uid=UID, replica=4, rate=TOKENS_PER_S)
    yield cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, open_site, wait):
    """Two workers as on two machines: they share nothing but the cluster token."""
    with (
        open_site(tmp_path_factory.mktemp("cluster"), **SETTINGS) as site,
        running_cluster(site, wait, ["worker-0", "worker-1"]) as cluster,
    ):
        yield cluster


def workers_of(site) -> dict[str, int]:
    return collections.Counter(replica["worker"] for replica in site.replicas(UID))


def ask(site, text: str) -> str | None:
    with site.client() as client:
        said = client.chat.completions.create(model=UID, messages=[{"role": "user", "content": text}])
    return said.choices[0].message.content


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def after_more(tally: Tally, count: int, wait) -> None:
    """Wait until so many streams more were answered completely."""
    goal = tally.complete + count
    wait(lambda: tally.complete >= goal, f"{count} more streams are complete")


def test_four_replicas_are_spread_two_and_two(cluster):
    assert workers_of(cluster.site) == {"worker-0": 2, "worker-1": 2}


def test_64_streams_at_once_keep_their_words_apart(cluster):
    tally = Tally()

    async def all_at_once() -> None:
        async with cluster.site.async_client() as client:
            texts = [f"stream number {number} of many: {number * 7919} {'ab ' * 20}end" for number in range(64)]
            await asyncio.gather(*[stream_once(client, text, tally) for text in texts])

    asyncio.run(all_at_once())
    assert (tally.complete, tally.interrupted, tally.failed) == (64, [], [])


def test_whatever_is_killed_in_turn_no_request_is_lost_and_everything_returns(cluster, wait):
    site = cluster.site
    pids = site.until_ready_replicas(UID, 4)
    with Load(site) as load:
        after_more(load.tally, 8, wait)

        victim = f"{UID}-0"
        kill(pids[victim])
        pids = wait(lambda: _replaced(site, pids, victim), "its worker has replaced the replica")
        after_more(load.tally, 8, wait)
        by_the_replica = len(load.tally.interrupted)

        cluster.workers[0].kill()
        wait(lambda: workers_alive(site) == 1, "the supervisor misses a worker")
        assert site.get(f"/v1/models/{UID}")["ready_replicas"] == 4
        busy = set()
        wait(lambda: busy.update(name for name, n in site.running().items() if n) or len(busy) == 4, "all four serve")
        cluster.restart_worker(0)
        cluster.until_workers_joined(wait)
        assert site.until_ready_replicas(UID, 4) == pids, "the worker adopts its replicas"

        cluster.supervisor.kill()
        after_more(load.tally, 16, wait)
        refused = site.call("POST", "/v1/models", json={"model_name": "echo", "model_uid": "other"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "supervisor_unreachable")
        assert int(refused.headers["retry-after"]) > 0
        assert [model["id"] for model in site.get("/v1/models")["data"]] == [UID]
        cluster.restart_supervisor()
        cluster.until_workers_joined(wait)
        assert site.until_ready_replicas(UID, 4) == pids, "the supervisor takes over what runs"
        after_more(load.tally, 8, wait)

    assert load.tally.failed == []
    assert len(load.tally.interrupted) == by_the_replica <= 8
    assert {error.code for error in load.tally.interrupted} <= {"replica_lost"}
    assert workers_of(site) == {"worker-0": 2, "worker-1": 2}
    assert [program.argv for program in site.programs if "Traceback" in program.log.read_text()] == []


def _replaced(site, pids, victim):
    now = site.ready_pids(UID)
    return now if len(now) == 4 and now[victim] != pids[victim] else {}


def workers_alive(site) -> int:
    return sum(worker["alive"] for worker in site.get("/v1/workers"))


def test_a_stream_of_a_killed_replica_ends_with_an_error_event(cluster, wait):
    site = cluster.site
    pids = site.until_ready_replicas(UID, 4)
    words = "every word counts " * 200
    body = {"model": UID, "messages": [{"role": "user", "content": words}], "stream": True}
    with httpx.stream("POST", f"{site.url}/v1/chat/completions", json=body, timeout=60, trust_env=False) as answer:
        lines = (line for line in answer.iter_lines() if line)
        assert "assistant" in next(lines)
        [victim] = wait(lambda: [name for name, n in site.running().items() if n], "a replica is busy")
        kill(pids[victim])
        *_, last = lines
    assert last.startswith('data: {"error":{"message":')
    assert '"code":"replica_lost"' in last
    wait(lambda: _replaced(site, pids, victim), "its worker has replaced the replica")


def test_a_killed_gateway_is_replaced_and_knows_the_models_at_once(cluster, wait):
    site = cluster.site
    [gateway] = site.gateways()
    gateway.kill()
    wait(lambda: [g.pid for g in site.gateways() if g.pid != gateway.pid], "another gateway")
    wait(lambda: site.get_or_none("/health"), "it answers")
    assert ask(site, "Still there?") == "Still there?"


def test_after_the_death_of_every_process_the_models_come_back(cluster, wait):
    site = cluster.site
    before = site.until_ready_replicas(UID, 4)
    for process in site.processes():
        process.kill()
    for program in (cluster.supervisor, *cluster.workers):
        program.wait()
    wait(lambda: not site.processes(), "everything is dead")

    cluster.restart_supervisor()
    wait(lambda: site.get_or_none("/health"), "a gateway answers")
    assert site.call("GET", "/v1/models").status_code == 503, "it does not pretend that there are none"
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        early = thread.submit(ask, site, "Anybody there?")
        cluster.restart_worker(0)
        cluster.restart_worker(1)
        assert early.result() == "Anybody there?", "a request waits for what comes back"
    after = site.until_ready_replicas(UID, 4)
    assert before.keys() == after.keys()
    assert not set(before.values()) & set(after.values())
    assert [model["id"] for model in site.get("/v1/models")["data"]] == [UID]
    assert ask(site, "Here again") == "Here again"


def test_two_workers_of_one_home_are_two_workers(tmp_path, open_site, wait):
    with (
        open_site(tmp_path, **SETTINGS) as site,
        running_cluster(site, wait, ["home", "home"]) as cluster,
    ):
        assert workers_of(site) == {"worker-0": 2, "worker-1": 2}
        pids = site.until_ready_replicas(UID, 4)
        for worker in cluster.workers:
            worker.kill()
        wait(lambda: workers_alive(site) == 0, "the supervisor misses both")
        cluster.restart_worker(0)
        cluster.restart_worker(1)
        cluster.until_workers_joined(wait)
        assert site.until_ready_replicas(UID, 4) == pids
