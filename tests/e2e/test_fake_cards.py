"""Cards of a fake driver under the real programs: every refusal, memory of strangers, a card lost under a replica."""

import re
import threading

import pytest
from fakes.nvml import library as fake
from fakes.nvml.library import FakeCard, FakeDriver

UID = "parrot"
CARDS = ("GPU-a", "GPU-b")


@pytest.fixture(scope="session")
def nvml(tmp_path_factory):
    return fake.compile_nvml(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def driver(tmp_path):
    return FakeDriver(tmp_path / "cards")


@pytest.fixture
def host(site, driver, nvml):
    """A supervisor and a worker with two cards of 8000 MiB."""
    driver.show(FakeCard("GPU-a", total=8000), FakeCard("GPU-b", total=8000))
    site.env |= driver.environment(nvml)
    site.local(device_period_s=0.2, heartbeat_s=0.2)
    return site


@pytest.fixture(scope="module")
def cards_in_use(tmp_path_factory, open_site, nvml):
    """Two cards of 8000 MiB, 7488 of which may be given away, each with a tenant of 1100 MiB and half of the cores."""
    root = tmp_path_factory.mktemp("in-use")
    driver = FakeDriver(root / "cards")
    driver.show(FakeCard("GPU-a", total=8000), FakeCard("GPU-b", total=8000))
    with open_site(root) as site:
        site.env |= driver.environment(nvml)
        site.local()
        site.launch("echo", model_uid="tenant", replica=2, gpu=1, gpumem=1100, gpucores=50)
        yield site


def cards(site):
    return {card["device_id"]: card for card in site.get("/v1/cluster/devices") if card["kind"] == "cuda"}


def refusal(site, **words):
    answer = site.call("POST", "/v1/models", json={"model_name": "echo", "model_uid": "refused", "gpu": 1, **words})
    error = answer.json()["error"]
    return answer.status_code, error["type"], error["param"], error["code"], error["message"]


@pytest.mark.parametrize(
    ("words", "param", "message"),
    [
        ({"gpumem": -1}, "gpumem", "gpumem must be 0 or more, not -1"),
        ({"gpumem_percentage": -1}, "gpumem_percentage", "gpumem_percentage must be between 0 and 100, not -1"),
        ({"gpumem_percentage": 101}, "gpumem_percentage", "gpumem_percentage must be between 0 and 100, not 101"),
        ({"gpucores": -1}, "gpucores", "gpucores must be between 0 and 100, not -1"),
        ({"gpucores": 101}, "gpucores", "gpucores must be between 0 and 100, not 101"),
    ],
)
def test_what_cannot_be_meant_is_the_senders_mistake(cards_in_use, words, param, message):
    assert refusal(cards_in_use, **words) == (422, "invalid_request_error", param, "invalid_slice_request", message)


@pytest.mark.parametrize(
    ("words", "need", "said"),
    [
        ({"gpumem": 7000}, "7000 MiB", "falls short by 612 MiB (6388 of 7488 MiB free)"),
        ({"gpumem_percentage": 100}, "100 % of the memory", "falls short by 1100 MiB (6388 of 7488 MiB free)"),
        ({"gpumem": 9, "gpucores": 60}, "9 MiB and 60 % of the cores", "falls short by 10 % of its cores"),
        ({"gpumem": 9, "gpucores": 100}, "9 MiB and 100 % of the cores", "falls short by 50 % of its cores"),
        ({"gpumem": 9, "gpuuuid": "GPU-z"}, "9 MiB", "has the UUID {card}, which the request rules out"),
    ],
)
def test_what_fits_nowhere_is_refused_in_numbers(cards_in_use, words, need, said):
    status, kind, param, code, message = refusal(cards_in_use, **words)
    assert (status, kind, param, code) == (409, "conflict_error", None, "insufficient_capacity")
    each = ", ".join(f"device {card} {said.format(card=card)}" for card in CARDS)
    assert message.startswith(f"a replica of 'refused' needs {need} on one device: ")
    assert f": {each}; " in message
    advice = "no device has the UUID GPU-z" if "gpuuuid" in words else "it would fit with "
    assert advice in message


def test_a_refusal_says_where_memory_that_nobody_asked_for_comes_from(cards_in_use):
    *_, code, message = refusal(cards_in_use, gpucores=60)
    assert code == "insufficient_capacity"
    assert re.match(r"a replica of 'refused' needs \d+ MiB and 60 % of the cores on one device \(estimated: ", message)


def test_of_both_forms_of_memory_mib_count_as_in_hami(cards_in_use):
    body = {"model_name": "echo", "model_uid": "both", "gpu": 1, "gpumem": 300, "gpumem_percentage": 100}
    plan = cards_in_use.call("POST", "/v1/placements:explain", json=body).json()
    assert (plan["fits"], plan["request"]["memory_mib"], plan["request"]["memory_percent"]) == (True, 300, None)


def places(site):
    """The state and the card of every replica, from one look at them."""
    return [(replica["state"], [piece["device_id"] for piece in replica["devices"]]) for replica in site.replicas(UID)]


def place(site):
    """The card of the only replica, and its state."""
    (only,) = places(site)
    return only


def test_memory_of_strangers_is_refused_at_the_launch_and_not_by_the_worker(host, driver, wait):
    driver.show(FakeCard("GPU-a", total=8000, used=7700), FakeCard("GPU-b", total=8000, used=7000))
    wait(lambda: cards(host)["GPU-b"]["others_mib"] == 7000, "the worker reports the strangers")
    body = {"model_name": "echo", "gpu": 1, "gpumem": 2000}
    for path in ("/v1/models", "/v1/placements:explain"):
        answer = host.call("POST", path, json=body)
        assert "GPU-a falls short by 1700 MiB" in answer.text
        assert "the device reports 300 MiB free" in answer.text
    assert host.call("POST", "/v1/models", json=body).status_code == 409
    assert host.launch("echo", gpu=1, gpumem=900) == "echo"
    assert [piece["replica_id"] for piece in cards(host)["GPU-b"]["slices"]] == ["echo-0"]


def test_a_replica_leaves_a_lost_card_without_a_gap_and_says_when_it_cannot(host, driver, wait):
    host.launch("echo", model_uid=UID, gpu=1, gpumem=1000)
    (first,) = place(host)[1]
    other = next(name for name in CARDS if name != first)
    with host.client() as client:
        stopping = threading.Event()
        failed = []

        def ask():
            while not stopping.is_set():
                answer = client.chat.completions.create(model=UID, messages=[{"role": "user", "content": "hello"}])
                if "hello" not in answer.choices[0].message.content:
                    failed.append(answer)

        asking = threading.Thread(target=ask)
        asking.start()
        driver.show(*(FakeCard(name, total=8000, more=("lost",) if name == first else ()) for name in CARDS))
        wait(lambda: places(host) == [("READY", [other])], "it runs on the other card")
        stopping.set()
        asking.join()
    assert failed == []

    driver.show(*(FakeCard(name, total=8000, more=("lost",)) for name in CARDS))
    wait(lambda: "cannot be moved" in host.replicas(UID)[0]["reason"], "it says that it has nowhere to go")
    (replica,) = host.replicas(UID)
    assert f"device {other} of worker" in replica["reason"]
    assert "is not healthy" in replica["reason"]
    refused = host.call("POST", "/v1/models", json={"model_name": "echo", "model_uid": "more", "gpu": 1})
    assert refused.status_code == 409
    assert refused.json()["error"]["details"]["reasons"] == {"Unhealthy": 2}
    assert f'xinfer_device_healthy{{device_id="{other}"' in host.call("GET", "/metrics").text
