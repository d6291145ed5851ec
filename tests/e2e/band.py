"""A supervisor and several workers, for replicas that run on more than one of them."""

import os
import signal

from e2e.demo_chat import golden
from e2e.engine_cases import ENVIRONMENTS, LOADING_S, Case

UID = "duet"
SETTINGS = {"heartbeat_s": 0.5, "worker_timeout_s": 3.0, "settle_s": 10.0, "drain_timeout_s": 5.0}


class Band:
    """A supervisor and its workers, each of which can be killed and started again."""

    def __init__(self, site, wait, size):
        self.site = site
        self._wait = wait
        for number in range(size if ENVIRONMENTS else 0):
            home = site.root / f"worker-{number}"
            home.mkdir()
            (home / "environments").symlink_to(ENVIRONMENTS)
        self.supervisor = self.start_supervisor()
        site.until_ready(self.supervisor)
        self.workers = [self.start_worker(number) for number in range(size)]
        self.until_alive(size)

    def start_supervisor(self):
        return self.site.serve("xinfer-supervisor", "-p", str(self.site.port))

    def start_worker(self, number):
        return self.site.serve(
            "xinfer-worker", "-e", self.site.url, "--name", f"worker-{number}", home=f"worker-{number}"
        )

    def until_alive(self, count):
        def alive():
            workers = self.site.get_or_none("/v1/workers") or []
            return sum(worker["alive"] for worker in workers) == count

        self._wait(alive, f"{count} workers are there")

    def members(self, uid=UID):
        """pid and worker of the members of its only replica, once that is READY; by rank."""
        found = self.site.get_or_none(f"/v1/models/{uid}/replicas") or []
        ready = found and found[0]["state"] == "READY"
        return [(member["pid"], member["worker"]) for member in found[0]["members"]] if ready else []

    def until_others(self, before, **patience):
        """The members, once none of those before is one of them."""

        def replaced():
            now = self.members()
            return now if now and not {pid for pid, _ in now} & {pid for pid, _ in before} else []

        return self._wait(replaced, "every member was started again", **patience)

    def say(self, text):
        with self.site.client() as client:
            messages = [{"role": "user", "content": text}]
            answer = client.chat.completions.create(model=UID, messages=messages, temperature=0, timeout=LOADING_S)
        return answer.choices[0].message.content


def plays_and_returns(band: Band, case: Case, **more) -> None:
    """A gang of a real engine answers as one process does, and again after its follower was killed."""
    case.start(band.site, UID, n_worker=2, **more)
    known = golden()[0]
    (question,) = known["messages"]
    assert band.say(question["content"]).strip() == known["answer"]
    before = band.members()
    os.kill(before[1][0], signal.SIGKILL)
    band.until_others(before, patience_s=LOADING_S)
    assert band.say(question["content"]).strip() == known["answer"]
    band.site.terminate(UID)
