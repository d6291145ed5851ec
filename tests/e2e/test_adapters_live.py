"""Adapters that come and go on running replicas, with an engine that needs no weights: who serves them, and when."""

import concurrent.futures
import os
import signal

import pytest
from fakes.lora import write_lora

QUESTION = "one two three"


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    return str(write_lora(tmp_path_factory.mktemp("lora") / "adapter", seed=1))


def ask(site, model, question=QUESTION, **more):
    body = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0, **more}
    return site.call("POST", "/v1/chat/completions", json=body)


def said(site, model, question=QUESTION, **more):
    answer = ask(site, model, question, **more)
    assert answer.is_success, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def cards(site):
    return {card["id"]: card for card in site.get("/v1/models")["data"]}


def add(site, uid, name, path, status=200):
    answer = site.call("POST", f"/v1/models/{uid}/adapters", json={"name": name, "path": path})
    assert answer.status_code == status, answer.text
    return answer.json()


def serving(site, uid):
    """By adapter, the replicas that serve it."""
    return {adapter["name"]: adapter["replicas"] for adapter in site.get(f"/v1/models/{uid}/adapters")}


def test_an_adapter_of_a_launch_is_a_model_of_its_own(site, lora):
    site.local()
    site.launch("echo", model_uid="base", lora_modules=[f"sql={lora}", {"name": "poet", "path": lora}])
    assert said(site, "base") == QUESTION
    assert said(site, "sql") == f"sql: {QUESTION}"
    assert said(site, "poet") == f"poet: {QUESTION}"
    card = cards(site)["sql"]
    assert (card["parent"], card["root"], card["status"], card["lora_rank"]) == ("base", lora, "ready", 4)
    assert ask(site, "nobody").status_code == 404
    for taken in ("base", "sql"):
        answer = site.call("POST", "/v1/models", json={"model_name": "echo", "model_uid": taken})
        assert answer.status_code == 409, answer.text
        assert repr(taken) in answer.json()["error"]["message"]
        assert "in use" in add(site, "base", taken, lora + "/.", status=409)["error"]["message"]


def test_adapters_come_and_go_while_the_same_processes_serve(site, lora, wait):
    site.local()
    site.launch("echo", model_uid="base", replica=2)
    pids = site.until_ready_replicas("base", 2)
    assert add(site, "base", "sql", lora) == {"id": "sql", "object": "model", "parent": "base"}
    assert said(site, "sql") == f"sql: {QUESTION}"
    assert serving(site, "base") == {"sql": ["base-0", "base-1"]}
    assert site.ready_pids("base") == pids

    site.call("POST", "/v1/models/base/replicas", json={"replica": 1}).raise_for_status()
    wait(lambda: serving(site, "base") == {"sql": ["base-0", "base-1", "base-2"]}, "a new replica has it too")
    os.kill(pids["base-0"], signal.SIGKILL)
    wait(lambda: site.ready_pids("base").get("base-0", pids["base-0"]) != pids["base-0"], "the killed one is back")
    assert serving(site, "base") == {"sql": ["base-0", "base-1", "base-2"]}

    site.call("DELETE", "/v1/models/base/adapters/sql").raise_for_status()
    assert ask(site, "sql").status_code == 404
    assert serving(site, "base") == {}
    assert said(site, "base") == QUESTION
    assert site.call("DELETE", "/v1/models/base/adapters/sql").status_code == 404


def test_adapters_outlive_supervisor_and_worker(site, lora, wait):
    server = site.local()
    site.launch("echo", model_uid="base")
    add(site, "base", "sql", lora)
    pids = site.ready_pids("base")
    server.kill()
    site.local()
    wait(lambda: serving(site, "base") == {"sql": ["base-0"]}, "the replica was adopted with its adapter")
    assert site.ready_pids("base") == pids
    assert said(site, "sql") == f"sql: {QUESTION}"
    site.call("DELETE", "/v1/models/base/adapters/sql").raise_for_status()
    wait(lambda: ask(site, "sql").status_code == 404, "it is gone")
    assert site.replicas("base")[0]["adapters"] == []
    assert site.ready_pids("base") == pids


def test_what_cannot_be_an_adapter_is_refused(site, lora, tmp_path):
    site.local()
    site.launch("echo", model_uid="base", fail_at={"broken": "it is broken"})
    error = add(site, "base", "sql", str(tmp_path), status=400)["error"]
    assert "adapter_config.json" in error["message"]
    error = add(site, "base", "broken", lora, status=500)["error"]
    assert (error["code"], "it is broken" in error["message"]) == ("load_failed", True)
    assert serving(site, "base") == {}
    assert add(site, "nobody", "sql", lora, status=404)["error"]["code"] == "model_not_found"
    assert add(site, "base", "..", lora, status=400)["error"]["param"] == "name"
    config = {"lora_list": [{"lora_name": "sql", "local_path": lora, "lora_scale": 0.5}]}
    answer = site.call("POST", "/v1/models", json={"model_name": "echo", "peft_model_config": config})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "peft_model_config"


def test_the_command_line(site, lora):
    site.local()
    launched = site.run("launch", "echo", "-u", "base", "--lora-modules", f"sql={lora}", f"poet={lora}")
    assert launched.returncode == 0, launched.stderr
    added = site.run("adapter", "add", "base", f"law={lora}")
    assert (added.returncode, "law" in added.stdout) == (0, True), added.stderr
    listed = site.run("adapter", "list", "base")
    assert all(name in listed.stdout for name in ("sql", "poet", "law", "base-0")), listed.stdout
    assert site.run("adapter", "remove", "base", "poet").returncode == 0
    assert sorted(serving(site, "base")) == ["law", "sql"]
    refused = site.run("adapter", "remove", "base", "poet")
    assert refused.returncode == 1
    assert "has no adapter" in refused.stderr


def test_real_adapters_on_the_engine_that_is_there(site, tmp_path):
    """Of those that serve the demo model here, one that takes adapters is chosen."""
    same = str(write_lora(tmp_path / "same", seed=1, strength=0.0))
    odd = str(write_lora(tmp_path / "odd", seed=2))
    site.local()
    site.launch("demo-chat", model_uid="base", lora_modules={"odd": odd}, memory_mib=1500)
    plain, other = said(site, "base", "Hello!", max_tokens=24), said(site, "odd", "Hello!", max_tokens=24)
    assert plain != other
    add(site, "base", "same", same)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        models = ["base", "odd", "same"] * 4
        answers = list(pool.map(lambda model: said(site, model, "Hello!", max_tokens=24), models))
    assert answers == [plain, other, plain] * 4
    wrong = str(write_lora(tmp_path / "wrong", seed=3, modules={"mlp.down_proj": (64, 32)}, base="another"))
    assert "made for another" in add(site, "base", "wrong", wrong, status=400)["error"]["message"]
