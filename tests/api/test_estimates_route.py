"""``POST /v1/estimates``: the body of a launch, and nothing is launched."""

from xinfer.errors import InvalidRequest
from xinfer.protocol import LaunchRequest


def test_estimating_takes_the_body_of_a_launch(play, supervisor):
    supervisor.answer = {"model_name": "echo", "estimates": {}}

    async def scenario(stage):
        reply = await stage.post("/v1/estimates", {"model_name": "echo", "max_model_len": 64, "gpu": 2})
        assert (reply.status, reply.json) == (200, supervisor.answer)

    play(scenario)
    ((name, request),) = [asked for asked in supervisor.asked if asked[0] != "routes"]
    assert name == "estimate"
    assert request == LaunchRequest(model_name="echo", gpu=2, options={"max_model_len": 64})


def test_what_cannot_be_launched_cannot_be_estimated(play, supervisor):
    supervisor.answer = InvalidRequest("no model 'nobody' in the catalog", param="model_name")

    async def scenario(stage):
        reply = await stage.post("/v1/estimates", {"model_name": "nobody"})
        assert (reply.status, reply.error["param"]) == (400, "model_name")
        reply = await stage.post("/v1/estimates", {})
        assert (reply.status, reply.error["param"]) == (400, "model_name")

    play(scenario)
