"""``xinfer launch`` with slices, and ``--dry-run``, against a scripted server."""

import json

import pytest
from typer.testing import CliRunner

from xinfer.cli.main import app

DEVICE = {"worker_id": "w", "worker": "node", "device_id": "cpu", "needed_mib": 100, "free_mib": 400, "cap_mib": 900}
FITS = {
    "model_uid": "demo-chat",
    "engine": "echo",
    "replicas": 1,
    "fits": True,
    "message": "1 of 1 replicas fit",
    "placements": [{"worker_id": "w", "slices": [{"device_id": "cpu", "memory_mib": 100}]}],
    "explanation": {"devices": [{**DEVICE, "message": "device cpu has room"}]},
}
DOES_NOT = {
    **FITS,
    "fits": False,
    "placements": [],
    "explanation": {
        "devices": [
            {
                **DEVICE,
                "needed_mib": 500,
                "missing_mib": 100,
                "reason": "InsufficientMemory",
                "message": "device cpu falls short by 100 MiB (400 of 900 MiB free)",
            }
        ],
        "free_mib": 700,
        "largest_free_mib": 400,
        "fragmented": True,
        "nearest": {"memory_mib": 400, "cores": 20},
    },
}


@pytest.fixture
def run(api):
    return lambda *args: CliRunner().invoke(app, [*args, "-e", api.url], env={"COLUMNS": "200"})


def test_slices_are_asked_for_in_the_words_of_hami(api, answer, run):
    api.on("POST", "/v1/models?wait_ready=false", answer(body={"model_uid": "demo-chat"}))
    words = (
        "launch demo-chat --no-wait --gpu 1 --gpumem 2000 --gpumem-percentage 10 --gpucores 20 --policy binpack "
        "--gputype A100,H100 --nouse-gputype MIG --gpuuuid GPU-a --nouse-gpuuuid GPU-b"
    )
    done = run(*words.split())
    assert done.exit_code == 0, done.output
    assert api.asked[0].body == {
        "model_name": "demo-chat",
        "replica": 1,
        "gpu": 1,
        "gpumem": 2000,
        "gpumem_percentage": 10,
        "gpucores": 20,
        "policy": "binpack",
        "gputype": "A100,H100",
        "nouse_gputype": "MIG",
        "gpuuuid": "GPU-a",
        "nouse_gpuuuid": "GPU-b",
    }


def test_a_negative_number_reaches_the_server_that_refuses_it(api, answer, run):
    refusal = {"message": "gpumem must be 0 or more, not -5", "type": "invalid_request_error", "param": "gpumem"}
    body = {"error": {**refusal, "code": "invalid_slice_request"}}
    api.on("POST", "/v1/models?wait_ready=false", answer(422, body))
    done = run("launch", "demo-chat", "--gpumem", "-5")
    assert done.exit_code != 0
    assert api.asked[0].body["gpumem"] == -5


def test_a_dry_run_shows_where_it_would_go(api, answer, run):
    api.on("POST", "/v1/placements:explain", answer(body=FITS))
    done = run("launch", "demo-chat", "--dry-run", "--gpumem", "100", "--rate", "5")
    assert done.exit_code == 0, done.output
    assert "fits: 1 of 1 replica" in done.stdout
    assert "takes 1 replica" in done.stdout
    assert [asked.body for asked in api.asked] == [{"model_name": "demo-chat", "replica": 1, "gpumem": 100, "rate": 5}]


def test_a_dry_run_says_what_was_picked_and_warns_as_a_launch_does(api, answer, run):
    told = {"picked": "echo with echo", "warnings": ["the fallback 'x' is not launched"]}
    api.on("POST", "/v1/placements:explain", answer(body=FITS | told))
    done = run("launch", "demo-chat", "--dry-run")
    assert "Picked echo with echo." in done.stdout
    assert "Warning: the fallback 'x' is not launched" in done.stderr


def test_a_dry_run_that_does_not_fit_says_why_and_what_would(api, answer, run):
    api.on("POST", "/v1/placements:explain", answer(body=DOES_NOT))
    done = run("launch", "demo-chat", "--dry-run", "--gpumem", "500")
    assert done.exit_code == 1
    assert "does not fit" in done.stdout
    assert "InsufficientMemory: falls short by 100 MiB (400 of 900 MiB free)" in done.stdout
    assert "700 MiB are free in all, but at most 400 MiB on one device." in done.stdout
    assert "It would fit with --gpumem 400 --gpucores 20" in done.stdout


def test_a_dry_run_in_json_is_the_answer_itself(api, answer, run):
    api.on("POST", "/v1/placements:explain", answer(body=DOES_NOT))
    done = run("launch", "demo-chat", "--dry-run", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout) == DOES_NOT
    assert len(api.asked) == 1


def test_json_is_for_dry_runs(run):
    done = run("launch", "demo-chat", "--json")
    assert done.exit_code == 2
    assert "--dry-run" in done.stderr
