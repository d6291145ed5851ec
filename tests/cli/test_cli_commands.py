"""The commands against a scripted server, as a shell would run them but in this process."""

import json

import pytest
from typer.testing import CliRunner

from xinfer import __version__
from xinfer.cli.main import app
from xinfer.processes import free_port


@pytest.fixture
def run(api):
    def run(*args, stdin=None, endpoint=True):
        where = ("-e", api.url) if endpoint else ()
        return CliRunner().invoke(app, [*args, *where], input=stdin)

    return run


CARD = {"id": "demo-chat", "model_type": "LLM", "model_engine": "echo", "status": "ready", "context_length": 512}
READY = {"progress": 1.0, "stage": "ready", "done": True, "reason": "", "replicas": []}


def launches(api, answer, *, uid="demo-chat", progress=(READY,), card=CARD):
    api.on("POST", "/v1/models?wait_ready=false", answer(body={"model_uid": uid}))
    api.on("GET", f"/v1/models/{uid}/progress", *(answer(body=step) for step in progress))
    api.on("GET", "/v1/models", answer(body={"object": "list", "data": [{**card, "id": uid}]}))


def test_launch_says_how_to_call_the_model(api, answer, run):
    launches(api, answer, progress=({"progress": 0.5, "stage": "loading"}, READY))
    done = run("launch", "demo-chat")
    assert done.exit_code == 0, done.output
    assert "demo-chat is ready." in done.stdout
    assert f"curl {api.url}/v1/chat/completions" in done.stdout
    assert f'OpenAI(base_url="{api.url}/v1"' in done.stdout
    assert "demo-chat" in done.stderr


def test_launch_waits_until_the_gateway_can_route_to_the_model(api, answer, run):
    launches(api, answer)
    lists = [answer(body={"data": data}) for data in ([], [{**CARD, "status": "loading"}], [CARD])]
    api.on("GET", "/v1/models", *lists)
    assert "curl" in run("launch", "demo-chat").stdout
    assert sum(asked.path == "/v1/models" for asked in api.asked) == 3


def test_launch_knows_the_options_of_xinference(api, answer, run):
    launches(api, answer, uid="mine")
    words = (
        "launch -n qwen -t LLM -en vllm -u mine -s 0_5 -f gguf -q q4 -r 2 --n-gpu 1 --gpu-idx 0,1 --worker-ip 10.0.0.2 "
        "--model-path /weights -ev A 1 -ev B=2 --max-model-len 4096 --enforce_eager --gpu-memory-utilization=0.5"
    )
    done = run(*words.split())
    assert done.exit_code == 0, done.output
    assert api.asked[0].body == {
        "model_name": "qwen",
        "model_type": "LLM",
        "model_engine": "vllm",
        "model_uid": "mine",
        "model_size_in_billions": "0_5",
        "model_format": "gguf",
        "quantization": "q4",
        "replica": 2,
        "n_gpu": 1,
        "gpu_idx": [0, 1],
        "worker_ip": "10.0.0.2",
        "model_path": "/weights",
        "envs": {"A": "1", "B": "2"},
        "max_model_len": 4096,
        "enforce_eager": True,
        "gpu_memory_utilization": 0.5,
    }


def test_launch_on_the_cpu_says_null_and_otherwise_nothing(api, answer, run):
    launches(api, answer)
    run("launch", "demo-chat", "--n-gpu", "none")
    run("launch", "demo-chat", "--n-gpu", "auto", "--no-wait")
    bodies = [asked.body for asked in api.asked if asked.method == "POST"]
    assert bodies == [
        {"model_name": "demo-chat", "replica": 1, "n_gpu": None},
        {"model_name": "demo-chat", "replica": 1},
    ]


def test_launch_of_a_folder_sends_its_path(api, answer, run, tmp_path, monkeypatch):
    launches(api, answer, uid="my-model")
    monkeypatch.chdir(tmp_path)
    run("launch", "./my-model")
    assert api.asked[0].body["model_name"] == "my-model"
    assert api.asked[0].body["model_path"] == str(tmp_path / "my-model")


def test_launch_that_does_not_wait_says_where_to_look(api, answer, run):
    launches(api, answer)
    done = run("launch", "demo-chat", "--no-wait")
    assert done.exit_code == 0
    assert "xinfer status" in done.stdout
    assert len(api.asked) == 1


def test_a_failed_launch_shows_the_reason_and_the_log(api, answer, run):
    reason = "ValueError: [no] such weights\nlast line of the log"
    launches(api, answer, progress=({"progress": 0.3, "stage": "loading", "done": True, "reason": reason},))
    done = run("launch", "demo-chat")
    assert done.exit_code == 1
    assert "demo-chat could not be launched" in done.stderr
    assert reason in done.stderr


def test_progress_of_several_replicas_is_shown_for_each(api, answer, run):
    replicas = [{"replica_id": f"demo-chat-{n}", "state": "READY", "progress": 1.0} for n in range(2)]
    launches(api, answer, progress=({**READY, "replicas": replicas},))
    done = run("launch", "demo-chat", "-r", "2")
    assert "demo-chat-0" in done.stderr
    assert "demo-chat-1" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["launch"], "which model?"),
        (["launch", "a", "-n", "b"], "which model?"),
        (["launch", "a", "--n-gpu", "many"], "--n-gpu"),
        (["launch", "a", "--gpu-idx", "0;1"], "--gpu-idx"),
        (["launch", "a", "-ev", "A"], "--env"),
        (["launch", "a", "--replica", "0"], "--replica"),
        (["launch", "a", "-z"], "-z"),
        (["list", "--jso"], "--jso"),
        (["terminate"], "which model?"),
        (["lanch"], "lanch"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_wrong(api, run, words, says):
    done = run(*words, endpoint=False)
    assert done.exit_code == 2
    assert says in done.stderr
    assert api.asked == []


def test_what_the_server_refuses_is_shown_in_its_words(api, answer, run):
    body = {"error": {"message": "no model 'x'; there are: demo-chat", "type": "t", "param": None, "code": "not_found"}}
    api.on("POST", "/v1/models?wait_ready=false", answer(404, body))
    done = run("launch", "x")
    assert done.exit_code == 1
    assert "Error: no model 'x'; there are: demo-chat" in done.stderr


def test_no_server_is_said_with_what_to_do(run):
    done = run("list", "-e", f"http://127.0.0.1:{free_port('127.0.0.1')}", endpoint=False)
    assert done.exit_code == 1
    assert "nothing answers at" in done.stderr
    assert "xinfer-local" in done.stderr
    assert "XINFER_ENDPOINT" in done.stderr


def test_the_endpoint_comes_from_the_environment(api, answer, run, monkeypatch):
    monkeypatch.setenv("XINFER_ENDPOINT", api.url)
    api.on("GET", "/v1/models", answer(body={"data": []}))
    done = run("list", endpoint=False)
    assert done.exit_code == 0
    assert "xinfer launch" in done.stdout


def test_a_wrong_setting_is_named(run, monkeypatch):
    monkeypatch.setenv("XINFER_HEARTBEAT_S", "soon")
    done = run("list")
    assert done.exit_code == 1
    assert "XINFER_HEARTBEAT_S" in done.stderr


def test_list_shows_a_row_for_each_model_and_json_for_scripts(api, answer, run):
    body = {"object": "list", "data": [CARD]}
    api.on("GET", "/v1/models", answer(body=body))
    assert "demo-chat" in run("list").stdout
    assert json.loads(run("list", "--json").stdout) == body


def test_terminate_takes_uids_by_position_and_by_option(api, answer, run):
    for uid in "abc":
        api.on("DELETE", f"/v1/models/{uid}", answer(body={"deleted": True}))
    done = run("terminate", "a", "b", "--model-uid", "c")
    assert done.exit_code == 0
    assert [asked.path for asked in api.asked] == ["/v1/models/a", "/v1/models/b", "/v1/models/c"]


CLUSTER = {
    "version": "0.1.0",
    "address": "127.0.0.1:4000",
    "epoch": 3,
    "uptime_s": 3725.0,
    "settling": True,
    "workers": [
        {
            "worker_id": "w1",
            "name": "left",
            "alive": True,
            "devices": [{"device_id": "cpu", "kind": "cpu", "memory_mib": 4096, "cores": 2}],
            "engines": {"echo": {"ok": True}, "vllm": {"ok": False, "reason": "not installed"}},
            "replicas": [
                {"replica_id": "m-0", "state": "READY", "devices": [{"device_id": "cpu", "memory_mib": 100}]},
                {"replica_id": "x-0", "state": "FAILED", "devices": [{"device_id": "cpu", "memory_mib": 900}]},
            ],
        },
        {"worker_id": "w2", "name": "right", "alive": False, "last_seen_s_ago": 12.0},
    ],
    "models": [
        {
            "model_uid": "m",
            "model_engine": "echo",
            "replica": 2,
            "replica_statuses": [
                {"replica_id": "m-0", "state": "READY", "worker": "left"},
                {"replica_id": "m-1", "state": "FAILED", "reason": "no [memory]\nlog", "worker": "right"},
            ],
        },
        {"model_uid": "waiting", "replica": 1},
    ],
}


def test_status_shows_workers_and_replicas(api, answer, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    api.on("GET", "/v1/cluster/info", answer(body=CLUSTER))
    done = run("status")
    assert done.exit_code == 0, done.output
    for part in ("up 1h 2m", "settling", "left", "100/4096", "lost 12s ago", "m-0", "no [memory]", "0 of 1"):
        assert part in done.stdout
    assert "vllm" not in done.stdout
    assert json.loads(run("status", "--json").stdout) == CLUSTER


def chat_chunk(text, **more):
    return json.dumps({"choices": [{"delta": {"content": text, **more}}]})


@pytest.fixture
def talking(api, answer):
    api.on("GET", "/v1/models", answer(body={"data": [CARD, {"id": "e", "model_type": "embedding"}]}))
    api.on("POST", "/v1/chat/completions", answer(events=(chat_chunk("Hello "), chat_chunk("[you]!"), "[DONE]")))
    return api


def test_chat_keeps_the_conversation_until_reset(talking, run):
    done = run("chat", "--system", "Be kind.", "--max_tokens", "9", stdin="Hi\nAgain\n/reset\nNew\n/exit\nnot asked\n")
    assert done.exit_code == 0, done.output
    assert done.stdout == "Hello [you]!\n" * 3
    bodies = [asked.body for asked in talking.asked if asked.method == "POST"]
    assert [[message["content"] for message in body["messages"]] for body in bodies] == [
        ["Be kind.", "Hi"],
        ["Be kind.", "Hi", "Hello [you]!", "Again"],
        ["Be kind.", "New"],
    ]
    assert bodies[0]["model"] == "demo-chat"
    assert bodies[0]["max_tokens"] == 9


def test_a_question_that_failed_is_not_part_of_the_conversation(talking, answer, run):
    refusal = {"error": {"message": "too long", "type": "t", "param": None, "code": "context_length_exceeded"}}
    good = answer(events=(chat_chunk("ok"), "[DONE]"))
    talking.on("POST", "/v1/chat/completions", answer(400, refusal), good)
    done = run("chat", "demo-chat", stdin="long\nshort\n")
    assert done.exit_code == 1
    assert "too long" in done.stderr
    assert [message["content"] for message in talking.asked[-1].body["messages"]] == ["short"]


def test_thinking_is_shown_but_not_part_of_the_answer(talking, answer, run):
    thought = json.dumps({"choices": [{"delta": {"reasoning_content": "hm "}}]})
    talking.on("POST", "/v1/chat/completions", answer(events=(thought, chat_chunk("yes"), "[DONE]")))
    done = run("chat", stdin="a\nb\n")
    assert done.stdout == "hm yes\n" * 2
    assert talking.asked[-1].body["messages"][1] == {"role": "assistant", "content": "yes"}


def test_generate_continues_a_text(talking, answer, run):
    talking.on("POST", "/v1/completions", answer(events=('{"choices": [{"text": " a time"}]}', "[DONE]")))
    done = run("generate", "--temperature", "0", stdin="Once upon\n/help\n")
    assert done.stdout == " a time\n"
    assert talking.asked[-1].body == {"model": "demo-chat", "prompt": "Once upon", "stream": True, "temperature": 0.0}
    assert "no such command" in done.stderr


@pytest.mark.parametrize(("names", "says"), [((), "launch one"), (("a", "b"), "name one of: a, b")])
def test_chat_asks_for_a_model_where_it_cannot_know(api, answer, run, names, says):
    api.on("GET", "/v1/models", answer(body={"data": [{"id": name, "model_type": "LLM"} for name in names]}))
    done = run("chat", stdin="Hi\n")
    assert done.exit_code == 1
    assert says in done.stderr


def test_version(run):
    assert run("--version", endpoint=False).stdout == f"xinfer {__version__}\n"
