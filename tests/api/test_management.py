"""The routes of FastAPI: models from the route table, what needs a supervisor that is away, and refusals."""

import json

import pytest

from xinfer.processes import free_port, write_record
from xinfer.protocol import SupervisorRecord, supervisor_record
from xinfer.routes import Availability

NEEDS_SUPERVISOR = [
    ("POST", "/v1/models", {"model_name": "echo"}),
    ("GET", "/v1/models/instances", None),
    ("GET", "/v1/models/m/progress", None),
    ("POST", "/v1/models/m/cancel", None),
    ("GET", "/v1/models/m/replicas", None),
    ("POST", "/v1/models/m/replicas", {"replica": 1}),
    ("DELETE", "/v1/models/m/replicas/m-0", None),
    ("DELETE", "/v1/models/m", None),
    ("GET", "/v1/cluster/info", None),
    ("GET", "/v1/workers", None),
    ("GET", "/v1/engines", None),
]


@pytest.fixture
def dead_supervisor(tmp_path, monkeypatch):
    """A record of a supervisor whose process is gone."""
    monkeypatch.setenv("XOSCAR_AUTH_KEY", "secret")
    record = SupervisorRecord(f"127.0.0.1:{free_port('127.0.0.1')}")
    write_record(supervisor_record(tmp_path), record)
    return record


@pytest.mark.parametrize(("method", "path", "body"), NEEDS_SUPERVISOR)
def test_managing_waits_for_the_supervisor_and_serving_does_not(play, method, path, body):
    async def scenario(stage):
        await stage.serve("m")
        reply = await stage.request(method, path, body or b"")
        assert (reply.status, reply.error["code"]) == (503, "supervisor_unreachable")
        assert int(reply.headers["retry-after"]) > 0
        assert (await stage.post("/v1/embeddings", {"model": "m", "input": "x"})).status == 200
        assert [model["id"] for model in (await stage.get("/v1/models")).json["data"]] == ["m"]

    play(scenario)


def test_a_supervisor_that_died_is_away_as_well(play, dead_supervisor):
    async def scenario(stage):
        reply = await stage.get("/v1/cluster/info")
        assert (reply.status, reply.error["code"]) == (503, "supervisor_unreachable")
        assert (await stage.get("/v1/address")).json == dead_supervisor.address

    play(scenario)


def test_models_come_from_the_route_table(play):
    async def scenario(stage):
        assert (await stage.get("/v1/models")).status == 503
        await stage.serve("org/b")
        stage.publish("a", availability=Availability.LOADING)
        listed = (await stage.get("/v1/models")).json
        assert listed["object"] == "list"
        assert [(model["id"], model["object"], model["status"]) for model in listed["data"]] == [
            ("a", "model", "loading"),
            ("org/b", "model", "ready"),
        ]
        for model in listed["data"]:
            assert (await stage.get(f"/v1/models/{model['id']}")).json == model
        reply = await stage.get("/v1/models/org/nonesuch")
        assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "model_not_found", "model")

    play(scenario)


@pytest.mark.parametrize("uid", ["plain", "org/name", "a/b/c", "a:b.c-1"])
def test_a_uid_with_slashes_reaches_the_supervisor_whole(play, monkeypatch, uid):
    asked = []

    async def scenario(stage):
        supervisor = stage.app.state.gateway_state.supervisor

        async def call(method, *args, timeout_s=0.0):
            asked.append((method, *args))
            return () if method == "instances" else 3

        monkeypatch.setattr(type(supervisor), "call", staticmethod(call))
        await stage.request("POST", f"/v1/models/{uid}/cancel")
        await stage.request("GET", f"/v1/models/{uid}/replicas")
        await stage.request("DELETE", f"/v1/models/{uid}/replicas/{uid.replace('/', '-')}-0")
        await stage.request("DELETE", f"/v1/models/{uid}")

    # The route table's long-poll asks as well; it is of no interest here.
    play(scenario)
    assert [one for one in asked if one[0] != "routes"] == [
        ("cancel", uid),
        ("instances", None, uid),
        ("remove_replica", uid, f"{uid.replace('/', '-')}-0"),
        ("terminate", uid),
    ]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "model_name"),
        ({"model_name": ""}, "model_name"),
        ({"model_name": 7}, "model_name"),
        ({"model_name": None}, "model_name"),
        ({"model_name": "m", "replica": 0}, "replica"),
        ({"model_name": "m", "replica": "two"}, "replica"),
        ({"model_name": "m", "replica": True}, "replica"),
        ({"model_name": "m", "memory_mib": 0}, "memory_mib"),
        ({"model_name": "m", "gpu_idx": "first"}, "gpu_idx"),
        ({"model_name": "m", "gpu_idx": [0, "x"]}, "gpu_idx"),
        ({"model_name": "m", "envs": {"A": 1}}, "envs"),
        ({"model_name": "m", "envs": ["A"]}, "envs"),
        ({"model_name": "m", "model_size_in_billions": []}, "model_size_in_billions"),
        ({"model_name": "m", "n_worker": 0}, "n_worker"),
    ],
)
def test_a_wrong_launch_is_refused_by_the_name_of_its_field(play, body, param):
    async def scenario(stage):
        reply = await stage.post("/v1/models", body)
        assert (reply.status, reply.error["type"], reply.error["param"]) == (400, "invalid_request_error", param)
        assert param in reply.error["message"]

    play(scenario)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "body"),
        (b"{", "not valid JSON"),
        (b'{"model_name": "m",}', "not valid JSON"),
        (b"\xff\xfe", "body"),
        (b'{"model_name": "\xff"}', "body"),
        (b"[" * 100_000, "body"),
        (b'{"a": ' + b"9" * 5000 + b"}", "body"),
        (b"[]", "body"),
        (b'"text"', "body"),
    ],
)
def test_a_launch_that_is_no_json_object_is_refused(play, body, words):
    async def scenario(stage):
        reply = await stage.post("/v1/models", body)
        assert (reply.status, reply.error["param"]) == (400, None)
        assert words in reply.error["message"]

    play(scenario)


@pytest.mark.parametrize("content_type", [None, "application/x-www-form-urlencoded", "text/plain"])
def test_a_launch_that_does_not_say_it_is_json_is_told_how(play, content_type):
    """What ``curl -d`` sends by default. Browsers send no JSON to other sites unasked, so this keeps those out."""

    async def scenario(stage):
        body = json.dumps({"model_name": "m"}).encode()
        reply = await stage.post("/v1/models", body, headers={"content-type": content_type})
        assert reply.status == 400
        assert "content-type: application/json" in reply.error["message"]

    play(scenario)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/models/m/replicas", {"replica": -1}, "replica"),
        ("/v1/models/m/replicas", {"replicas": 1}, "replicas"),
        ("/v1/models?wait_ready=perhaps", {"model_name": "m"}, "wait_ready"),
    ],
)
def test_other_wrong_parameters_are_refused_by_their_names(play, path, body, param):
    async def scenario(stage):
        reply = await stage.post(path, body)
        assert (reply.status, reply.error["param"]) == (400, param)

    play(scenario)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/models", {"GET", "POST"}),
        ("POST", "/v1/models/instances", None),
        ("HEAD", "/health", {"GET"}),
        ("OPTIONS", "/v1/cluster/info", {"GET"}),
        ("POST", "/metrics", {"GET"}),
    ],
)
def test_a_wrong_method_is_refused_with_the_right_ones(play, method, path, allowed):
    async def scenario(stage):
        reply = await stage.request(method, path)
        assert (reply.status, reply.error["code"]) == (405, "method_not_allowed")
        if allowed:
            assert allowed >= set(reply.headers["allow"].split(", "))

    play(scenario)


def test_an_error_in_a_route_is_logged_and_told_in_our_shape(play, monkeypatch, caplog):
    async def scenario(stage):
        def broken(*_):
            raise RuntimeError("the private reason")

        monkeypatch.setattr(type(stage.app.state.gateway_state.metrics), "exposition", broken)
        asked = stage.open("GET", "/metrics")
        with pytest.raises(RuntimeError):  # the server of HTTP is told as well
            await asked.reply()

    play(scenario)
    assert "the private reason" in caplog.text


def test_a_fault_on_a_hot_route_is_told_in_our_shape(play, monkeypatch):
    async def scenario(stage):
        await stage.serve("m")

        def broken(*_):
            raise RuntimeError("the private reason")

        monkeypatch.setattr(stage.gateway, "_pick", broken)
        asked = stage.open("POST", "/v1/embeddings", {"model": "m", "input": "x"})
        start, body = await asked.message(), await asked.message()
        assert start["status"] == 500
        assert json.loads(body["body"])["error"]["code"] == "internal_error"
        assert b"private" not in body["body"]
        with pytest.raises(RuntimeError):  # the server of HTTP is told as well, and logs it
            await asked.task

    play(scenario)


# --- what needs nobody ------------------------------------------------------------------------------------------------


def test_health_and_readiness(play):
    async def scenario(stage):
        assert (await stage.get("/health")).json["status"] == "ok"
        reply = await stage.get("/ready")
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        await stage.serve("m")
        assert (await stage.get("/ready")).json == {"status": "ready"}

    play(scenario)


def test_the_first_questions_of_xinferences_client(play):
    async def scenario(stage):
        assert (await stage.get("/v1/cluster/auth")).json == {"auth": False}
        assert (await stage.get("/v1/cluster/version")).json["version"]

    play(scenario)
