"""A replica that runs on several workers: it starts as one, answers as one, and dies and returns as one."""

import os
import signal

import pytest
from e2e.band import SETTINGS, UID, Band


@pytest.fixture(scope="module")
def band(tmp_path_factory, open_site, wait):
    with open_site(tmp_path_factory.mktemp("gang"), **SETTINGS) as site:
        band = Band(site, wait, 3)
        site.launch("echo", model_uid=UID, n_worker=2)
        yield band


def test_a_gang_has_a_member_on_each_of_its_workers_and_answers(band):
    (replica,) = band.site.replicas(UID)
    assert [(member["rank"], member["state"]) for member in replica["members"]] == [(0, "READY"), (1, "READY")]
    assert len({member["worker"] for member in replica["members"]}) == 2
    assert band.say("Two of us") == "Two of us"


@pytest.mark.parametrize("rank", [1, 0])
def test_when_a_member_is_killed_all_start_again_together(band, rank):
    before = band.members()
    os.kill(before[rank][0], signal.SIGKILL)
    after = band.until_others(before)
    assert [worker for _, worker in after] == [worker for _, worker in before]
    assert band.say("Here again") == "Here again"


def test_a_supervisor_that_was_killed_takes_the_whole_gang_over(band, wait):
    before = band.members()
    band.supervisor.kill()
    assert band.say("On our own") == "On our own"
    band.supervisor = band.start_supervisor()
    assert wait(band.members, "it is known again") == before


def test_a_killed_worker_that_returns_adopts_its_member(band, wait):
    before = band.members()
    number = int(before[1][1].rpartition("-")[2])
    band.workers[number].kill()
    band.until_alive(2)
    assert band.say("One of us has no worker") == "One of us has no worker"
    band.workers[number] = band.start_worker(number)
    band.until_alive(3)
    assert wait(band.members, "the gang is whole") == before


def test_a_gang_whose_worker_died_with_its_member_moves_to_another_worker(band, wait):
    before = band.members()
    number = int(before[1][1].rpartition("-")[2])
    band.workers[number].kill()
    os.kill(before[1][0], signal.SIGKILL)
    after = band.until_others(before)
    assert f"worker-{number}" not in {worker for _, worker in after}
    assert band.say("Moved") == "Moved"
    band.workers[number] = band.start_worker(number)
    band.until_alive(3)


def test_a_gang_that_finds_too_few_workers_is_refused_with_numbers(band):
    body = {"model_name": "echo", "model_uid": "quartet", "n_worker": 4}
    refused = band.site.call("POST", "/v1/models", json=body)
    assert refused.status_code == 409
    message = refused.json()["error"]["message"]
    assert "of each of 4 workers" in message
    assert "there are only 3 that may run it" in message


def test_an_engine_for_one_worker_is_refused_with_those_for_several(band):
    body = {"model_name": "demo-chat", "model_engine": "transformers", "n_worker": 2}
    refused = band.site.call("POST", "/v1/models", json=body)
    assert refused.status_code == 400
    assert "on several (n_worker) these can: echo, sglang, vllm" in refused.json()["error"]["message"]


def test_what_a_gang_has_begun_it_finishes_before_any_member_ends(band):
    text = "word " * 40
    band.site.launch("echo", model_uid="slow", n_worker=2, rate=20.0)
    with band.site.client() as client:
        messages = [{"role": "user", "content": text}]
        stream = iter(client.chat.completions.create(model="slow", messages=messages, stream=True))
        heard = [next(stream), next(stream)]
        band.site.call("DELETE", "/v1/models/slow").raise_for_status()
        heard += stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in heard) == text


def test_nothing_of_a_terminated_gang_is_left(band):
    band.site.terminate(UID)
    assert [command for command in band.site.commands() if "xinfer.replica" in command] == []
