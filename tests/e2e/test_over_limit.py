"""A replica on the CPU that uses more than its slice, and its neighbour, which has to answer all the time."""

import threading

import openai

SLICE_MIB = 300
LEAK_MIB = 400
HASTE = {"device_period_s": 0.2, "over_limit_grace_s": 0}


def launch(site, uid, **options):
    site.launch("echo", model_uid=uid, gpumem=SLICE_MIB, **options)
    site.until_ready_replicas(uid, 1)
    return f"{uid}-0"


def say(client, uid, text="hello"):
    answer = client.chat.completions.create(model=uid, messages=[{"role": "user", "content": text}])
    return answer.choices[0].message.content


def piece_of(site, replica_id):
    (device,) = site.get("/v1/cluster/devices")
    return next((piece for piece in device["slices"] if piece["replica_id"] == replica_id), None)


class Neighbour:
    """Asks its model again and again, until the end of the block; all answers have to be right."""

    def __init__(self, client, uid):
        self.answers = 0
        self._client, self._uid = client, uid
        self._enough = threading.Event()
        self._failure = None
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._enough.set()
        self._thread.join()
        assert self._failure is None
        assert self.answers > 0

    def _ask(self):
        try:
            while not self._enough.wait(0.02):
                assert say(self._client, self._uid, "still here?") == "still here?"
                self.answers += 1
        except (openai.OpenAIError, AssertionError) as error:
            self._failure = error


def test_it_is_ended_with_the_numbers_and_its_neighbour_never_notices(site, wait):
    site.local(over_limit="end", **HASTE)
    launch(site, "modest")
    replica_id = launch(site, "greedy", leak_mib=LEAK_MIB)
    (device,) = site.get("/v1/cluster/devices")
    assert device["enforced"]["memory"] in ("soft", "hard")

    def state():
        (replica,) = site.replicas("greedy")
        return replica

    with site.client() as client, Neighbour(client, "modest"):
        first = site.ready_pids("greedy")[replica_id]
        assert say(client, "greedy") == "hello"
        ended = wait(lambda: (now := state())["restarts"] == 1 and now, "it is ended and started again")
        again = wait(lambda: site.ready_pids("greedy").get(replica_id), "it is back")
        assert again != first
        assert ended["state"] != "FAILED"
        say(client, "greedy")  # it does not learn
        wait(lambda: state()["restarts"] == 2 and site.ready_pids("greedy"), "it is started a third time")
        say(client, "greedy")
        failed = wait(lambda: (now := state())["state"] == "FAILED" and now, "it is given up")
        words = failed["reason"].partition("\n")[0]
        assert words.startswith("given up after it was ended 3 times: it used ")
        assert f"MiB of its {SLICE_MIB} MiB on device cpu" in words
        assert "give it more (--gpumem)" in words
    assert state()["restarts"] == 2


def test_it_is_reported_and_goes_on(site, wait):
    program = site.local(over_limit="report", **HASTE)
    replica_id = launch(site, "greedy", leak_mib=LEAK_MIB)
    assert piece_of(site, replica_id)["over_limit_mib"] == 0
    with site.client() as client:
        assert say(client, "greedy") == "hello"
        piece = wait(lambda: (now := piece_of(site, replica_id))["over_limit_mib"] and now, "it is seen over its slice")
        assert piece["over_limit_mib"] == piece["used_mib"] - SLICE_MIB
        (replica,) = site.replicas("greedy")
        assert replica["state"] == "READY"
        assert f"MiB of its {SLICE_MIB} MiB on device cpu" in replica["warning"]
        assert "it uses" in site.run("status").stdout
        assert say(client, "greedy") == "hello"
    assert f"replica {replica_id}: it uses " in program.log.read_text()
