"""``/v1/model_registrations`` and ``/v1/engines/MODEL``, in front of a supervisor that is played."""

import json

import pytest

from xinfer.api.control import Supervisor
from xinfer.catalog.registered import read_registration
from xinfer.errors import InvalidRequest, SupervisorAway, UnknownModel
from xinfer.protocol import LaunchRequest

MINE = {
    "name": "mine",
    "kind": "embedding",
    "aliases": ["my-own"],
    "variants": [{"format": "safetensors", "source": "/data/mine"}],
}
HIDING = {"name": "qwen3", "kind": "LLM", "variants": [{"format": "safetensors", "source": "/data/qwen"}]}


@pytest.fixture
def supervisor(monkeypatch):
    """Keeps registrations, and answers ``match`` with ``answer``, or raises it."""

    class Played:
        def __init__(self):
            self.known = {}
            self.asked = []
            self.answer = None

        def register(self, _model_type, document, _update):
            found = read_registration(document)
            self.known[found.model.name] = found
            return found

        def unregister(self, _model_type, name):
            if name not in self.known:
                raise UnknownModel(f"no model {name!r} is registered")
            return self.known.pop(name)

        def registrations(self):
            return tuple(self.known.values())

        def match(self, _request, _brief):
            return self.answer

    played = Played()

    async def call(_self, name, *args, **_):
        if name == "routes":
            raise SupervisorAway("it has no table")
        played.asked.append((name, *args))
        if isinstance(played.answer, Exception):
            raise played.answer
        return getattr(played, name)(*args)

    monkeypatch.setattr(Supervisor, "call", call)
    return played


def test_the_built_in_models_as_xinference_lists_them(play, supervisor):
    async def scenario(stage):
        reply = await stage.get("/v1/model_registrations/rerank")
        assert {"model_name": "bge-reranker-v2-m3", "is_builtin": True} in reply.json
        reply = await stage.get("/v1/model_registrations/embedding?detailed=true")
        assert all(model["model_type"] == "embedding" and model["model_specs"] for model in reply.json)
        reply = await stage.get("/v1/model_registrations/LLM/qwen2.5-vl-instruct")
        assert reply.json["model_type"] == "vision-language"
        reply = await stage.get("/v1/model_registrations/embedding/qwen3")
        assert reply.status == 404
        assert "is a model of the type LLM" in reply.error["message"]

    play(scenario)


def test_a_model_is_registered_shown_updated_and_forgotten(play, supervisor):
    async def scenario(stage):
        reply = await stage.post("/v1/model_registrations/embedding", {"model": MINE})
        assert (reply.status, reply.json["model_name"], reply.json["version"]) == (200, "mine", 1)
        assert reply.json["model_specs"][0]["sources"] == ["/data/mine"]
        reply = await stage.get("/v1/model_registrations/embedding")
        assert reply.json[0] == {"model_name": "mine", "is_builtin": False}
        for name in ("mine", "my-own"):
            reply = await stage.get(f"/v1/model_registrations/embedding/{name}")
            assert (reply.json["is_builtin"], reply.json["overrides_builtin"]) == (False, False)
        reply = await stage.request("PUT", "/v1/model_registrations/embedding/mine", {"model": MINE})
        assert reply.status == 200
        assert supervisor.asked[-2] == ("register", "embedding", MINE, True)
        reply = await stage.request("DELETE", "/v1/model_registrations/embedding/mine")
        assert reply.json == {"model_name": "mine", "object": "model_registration", "deleted": True}
        reply = await stage.get("/v1/model_registrations")
        assert reply.json == {"object": "list", "data": []}

    play(scenario)


def test_the_model_may_be_a_string_as_clients_of_xinference_send_it(play, supervisor):
    async def scenario(stage):
        body = {"model": json.dumps(MINE), "persist": False, "worker_ip": None}
        reply = await stage.post("/v1/model_registrations/embedding", body)
        assert (reply.status, reply.json["persist"]) == (200, True)
        reply = await stage.post("/v1/model_registrations/embedding", {"model": "{"})
        assert (reply.status, reply.error["param"]) == (400, "model")

    play(scenario)


def test_one_that_hides_a_built_in_model_is_shown_so(play, supervisor):
    async def scenario(stage):
        await stage.post("/v1/model_registrations/LLM", {"model": HIDING})
        listed = (await stage.get("/v1/model_registrations/LLM")).json
        assert [model for model in listed if model["model_name"] == "qwen3"] == [
            {"model_name": "qwen3", "is_builtin": False}
        ]
        (card,) = (await stage.get("/v1/model_registrations")).json["data"]
        assert card["overrides_builtin"]
        listed = (await stage.get("/v1/catalog")).json
        assert [model["is_builtin"] for model in listed["data"] if model["model_name"] == "qwen3"] == [False]
        assert listed["warnings"] == []
        described = (await stage.get("/v1/catalog/qwen3")).json
        assert described["model_specs"][0]["sources"] == ["/data/qwen"]

    play(scenario)


@pytest.mark.parametrize(
    ("asked", "status", "param"),
    [
        (("POST", "/LLM", {}), 400, "model"),
        (("POST", "/LLM", {"model": MINE, "colour": 1}), 400, "colour"),
        (("POST", "/LLM", {"model": MINE, "worker_ip": "10.0.0.1"}), 400, "worker_ip"),
        (("POST", "/LLM", {"model": MINE | {"kind": "poem"}}), 400, "kind"),
        (("PUT", "/LLM/other", {"model": MINE}), 400, "model"),
        (("GET", "/poem", b""), 400, "model_type"),
        (("GET", "/LLM/nobody", b""), 404, "model_name"),
        (("DELETE", "/LLM/nobody", b""), 404, None),
    ],
)
def test_what_is_wrong_is_named(play, supervisor, asked, status, param):
    method, path, body = asked

    async def scenario(stage):
        reply = await stage.request(method, f"/v1/model_registrations{path}", body)
        assert (reply.status, reply.error["param"]) == (status, param)

    play(scenario)


def test_engines_of_a_model(play, supervisor):
    supervisor.answer = {"transformers": []}

    async def scenario(stage):
        for path in ("/v1/engines/Qwen/Qwen3-0.6B", "/v1/engines/LLM/qwen3?format=gguf&size=0_6&quantization=Q4_0"):
            assert (await stage.get(path)).json == {"transformers": []}
        await stage.get("/v1/engines/mine?detailed=true&model_path=/data/m&n_gpu=0&model_engine=vllm&worker_ip=w")

    play(scenario)
    assert supervisor.asked == [
        ("match", LaunchRequest(model_name="Qwen/Qwen3-0.6B"), True),
        (
            "match",
            LaunchRequest(
                model_name="qwen3",
                model_type="LLM",
                model_format="gguf",
                model_size_in_billions="0_6",
                quantization="Q4_0",
            ),
            True,
        ),
        (
            "match",
            LaunchRequest(model_name="mine", model_path="/data/m", n_gpu="0", model_engine="vllm", worker_ip="w"),
            False,
        ),
    ]


def test_the_engines_of_nothing(play, supervisor):
    supervisor.answer = InvalidRequest("no model 'nobody' in the catalog", param="model_name")

    async def scenario(stage):
        reply = await stage.get("/v1/engines/nobody")
        assert (reply.status, reply.error["param"]) == (400, "model_name")
        reply = await stage.get("/v1/engines/%20")
        assert (reply.status, reply.error["param"]) == (400, "model_name")

    play(scenario)
