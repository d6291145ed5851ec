"""Words of a launch about slices, as they reach the supervisor, and the explanation of a placement."""

import pytest

from xinfer.errors import InvalidSliceRequest
from xinfer.protocol import LaunchRequest

SLICE = {
    "gpu": 2,
    "gpu_idx": [0, 1],
    "gpumem": 2000,
    "gpumem_percentage": 10,
    "gpucores": 20,
    "policy": "spread",
    "gputype": "A100,H100",
    "nouse_gputype": ["MIG"],
    "gpuuuid": ["GPU-a", "GPU-b"],
    "nouse_gpuuuid": None,
}


def test_explaining_takes_the_body_of_a_launch_and_launches_nothing(play, supervisor):
    supervisor.answer = {"fits": True, "placements": []}

    async def scenario(stage):
        reply = await stage.post("/v1/placements:explain", {"model_name": "echo", "rate": 5, **SLICE})
        assert (reply.status, reply.json) == (200, supervisor.answer)

    play(scenario)
    ((name, request),) = [asked for asked in supervisor.asked if asked[0] != "routes"]
    assert name == "explain"
    assert request == LaunchRequest(
        model_name="echo",
        gpu=2,
        gpu_idx=(0, 1),
        gpumem=2000,
        gpumem_percentage=10,
        gpucores=20,
        policy="spread",
        gputype=("A100,H100",),
        nouse_gputype=("MIG",),
        gpuuuid=("GPU-a", "GPU-b"),
        options={"rate": 5},
    )


@pytest.mark.parametrize("path", ["/v1/models", "/v1/placements:explain"])
def test_a_slice_that_cannot_be_meant_is_a_422(play, supervisor, path):
    supervisor.answer = InvalidSliceRequest("gpucores must be between 0 and 100, not 101", param="gpucores")

    async def scenario(stage):
        reply = await stage.post(path, {"model_name": "echo", "gpucores": 101})
        error = reply.error
        assert (reply.status, error["code"], error["param"]) == (422, "invalid_slice_request", "gpucores")

    play(scenario)


@pytest.mark.parametrize("word", ["gpu", "gpumem", "gpumem_percentage", "gpucores"])
def test_a_number_must_be_one(play, supervisor, word):
    async def scenario(stage):
        for wrong in ("many", 1.5, True):
            reply = await stage.post("/v1/placements:explain", {"model_name": "echo", word: wrong})
            assert (reply.status, reply.error["param"]) == (400, word)

    play(scenario)
