"""Models that sleep and wake up, with an engine that says when it is called asleep."""

import os
import signal
import threading

from fakes.lora import write_lora

QUESTION = "one two three"


def ask(site, question=QUESTION, model="base"):
    body = {"model": model, "messages": [{"role": "user", "content": question}]}
    return site.call("POST", "/v1/chat/completions", json=body)


def sleep(site, level=1, status=200):
    answer = site.call("POST", "/v1/models/base/sleep", json={"level": level})
    assert answer.status_code == status, answer.text
    return answer.json()


def card(site):
    return site.get("/v1/models/base")


def levels(site):
    return [replica["sleep_level"] for replica in site.replicas("base")]


def test_a_request_wakes_a_model_that_sleeps(site):
    site.local()
    site.launch("echo", model_uid="base", replica=2)
    pids = site.until_ready_replicas("base", 2)
    before = site.get("/v1/cluster/devices")[0]["reserved_mib"]
    assert sleep(site) == {"model_uid": "base", "sleep_level": 1}
    assert (card(site)["status"], levels(site)) == ("asleep", [1, 1])
    assert site.replicas("base")[0]["stage"] == "asleep (level 1)"
    assert site.get("/v1/cluster/devices")[0]["reserved_mib"] == before
    assert ask(site).json()["choices"][0]["message"]["content"] == QUESTION
    assert site.call("POST", "/v1/models/base/wake").json() == {"model_uid": "base", "sleep_level": 0}
    assert (card(site)["status"], levels(site)) == ("ready", [0, 0])
    assert site.ready_pids("base") == pids


def test_where_requests_do_not_wake_it_they_are_told_who_can(site):
    site.local(wake_wait_s=0)
    site.launch("echo", model_uid="base")
    said = site.run("sleep", "base", "--level", "2")
    assert said.returncode == 0, said.stderr
    answer = ask(site)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert "xinfer wake base" in answer.json()["error"]["message"]
    assert levels(site) == [2]
    assert site.run("wake", "base").returncode == 0
    assert ask(site).is_success


def test_a_request_for_an_adapter_wakes_its_model_and_those_added_meanwhile_are_there(site, tmp_path):
    lora = str(write_lora(tmp_path / "lora", seed=1))
    site.local()
    site.launch("echo", model_uid="base", lora_modules={"sql": lora})
    sleep(site)
    site.call("POST", "/v1/models/base/adapters", json={"name": "poet", "path": lora}).raise_for_status()
    for name in ("poet", "sql"):
        assert ask(site, model=name).json()["choices"][0]["message"]["content"] == f"{name}: {QUESTION}"
    assert "asleep" not in site.run("status").stdout
    sleep(site, level=2)
    assert "asleep (level 2)" in site.run("status").stdout


def test_what_has_begun_is_finished_before_it_sleeps(site, wait):
    site.local()
    site.launch("echo", model_uid="base", rate=20)
    question = "word " * 40  # two seconds; its replica says four times a second what it works on
    found = []
    asking = threading.Thread(target=lambda: found.append(ask(site, question)))
    asking.start()
    wait(lambda: site.running().get("base-0"), "the engine works on it")
    sleep(site)
    asking.join()
    assert found[0].json()["choices"][0]["message"]["content"].split() == question.split()


def test_sleep_outlives_every_process(site, wait):
    server = site.local(wake_wait_s=0)
    site.launch("echo", model_uid="base")
    sleep(site)
    pid = site.ready_pids("base")["base-0"]
    os.kill(pid, signal.SIGKILL)
    wait(lambda: site.ready_pids("base").get("base-0", pid) != pid, "another process took its place")
    assert levels(site) == [1]
    server.kill()
    site.local(wake_wait_s=0)
    wait(lambda: card(site)["status"] == "asleep" and site.ready_pids("base"), "it is still asleep")
    assert ask(site).status_code == 503
    site.call("POST", "/v1/models/base/wake").raise_for_status()
    assert ask(site).is_success


def test_an_engine_that_does_not_fall_asleep_goes_on(site):
    site.local()
    site.launch("echo", model_uid="base", fail_at={"sleep": "it has had coffee"})
    error = sleep(site, status=500)["error"]
    assert "it has had coffee" in error["message"]
    assert ask(site).is_success
    assert sleep(site, level=3, status=400)["error"]["param"] == "level"


def test_an_engine_that_does_not_wake_up_is_started_anew(site):
    site.local()
    site.launch("echo", model_uid="base", fail_at={"wake": "it dreams"})
    pid = site.ready_pids("base")["base-0"]
    sleep(site)
    assert ask(site).is_success
    assert site.ready_pids("base")["base-0"] != pid


def test_an_engine_that_cannot_sleep_is_named_with_those_that_can(site):
    site.local()
    site.launch("demo-embed", model_uid="base")
    error = sleep(site, status=400)["error"]
    assert "cannot sleep; these can: echo, vllm" in error["message"]
