"""An operator empties a worker while clients are busy: nobody notices, and what he said outlives the supervisor."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

UID = "parrot"
WORDS = "every word of this answer has to arrive"


@pytest.fixture
def cluster(site, wait):
    """A supervisor and two workers, as on two machines; returns how to start the supervisor (again)."""

    def start():
        return site.serve("xinfer-supervisor", "-p", str(site.port), heartbeat_s=0.5, settle_s=20.0)

    supervisor = start()
    site.until_ready(supervisor)
    for name in ("one", "two"):
        site.serve("xinfer-worker", "-e", site.url, "--name", name, home=name, heartbeat_s=0.5, device_period_s=0.5)
    wait(lambda: len(site.get_or_none("/v1/workers") or []) == 2, "both workers have joined")
    return supervisor, start


class Clients:
    """Clients that ask one after the other until they are told to stop."""

    def __init__(self, site, count=4):
        self.answered, self.failed = 0, []
        self._site, self._stopping = site, threading.Event()
        self._pool = ThreadPoolExecutor(count)
        self._asking = [self._pool.submit(self._ask) for _ in range(count)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self._pool.shutdown()
        for asked in self._asking:
            asked.result()

    def _ask(self):
        with self._site.client() as client:
            while not self._stopping.is_set():
                answer = client.chat.completions.create(model=UID, messages=[{"role": "user", "content": WORDS}])
                said = answer.choices[0].message.content
                if WORDS in said:
                    self.answered += 1
                else:
                    self.failed.append(said)


def workers_of(site):
    return sorted(replica["worker"] for replica in site.replicas(UID))


def test_a_worker_is_emptied_without_anybody_noticing(site, cluster, wait):
    supervisor, start = cluster
    site.launch("echo", model_uid=UID, replica=4, rate=200.0)
    assert workers_of(site) == ["one", "one", "two", "two"]

    with Clients(site) as clients:
        wait(lambda: clients.answered >= 4, "clients are answered")
        done = site.run("drain", "one", "--timeout", "50")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "worker one is empty." in done.stdout
        before = clients.answered
        wait(lambda: clients.answered >= before + 4, "clients are still answered")
    assert clients.failed == []
    assert workers_of(site) == ["two"] * 4

    supervisor.kill()
    start()
    wait(lambda: site.get_or_none("/v1/workers"), "the supervisor is back")
    wait(lambda: not site.get("/v1/cluster/info")["settling"], "it has settled")
    assert "draining" in site.run("status").stdout
    plan = site.call("POST", "/v1/placements:explain", json={"model_name": "echo", "worker_ip": "one"}).json()
    assert plan["explanation"]["reasons"] == {"Cordoned": 1}
    refused = site.call("POST", "/v1/models", json={"model_name": "echo", "worker_ip": "one"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "insufficient_capacity")
    assert "is cordoned, it takes nothing new" in refused.json()["error"]["message"]

    metrics = site.call("GET", "/metrics").text
    assert 'xinfer_placement_rejects_total{reason="Cordoned"} 1.0' in metrics
    assert metrics.count("xinfer_slice_memory_allocated_bytes{") == 4

    done = site.run("uncordon", "one")
    assert "worker one takes replicas again." in done.stdout, done.stderr
    assert site.launch("echo", model_uid="again", worker_ip="one") == "again"
