"""``xinfer-local`` as people handle it: started twice, on taken ports, elsewhere, interrupted."""

import concurrent.futures
import signal
import socket

import pytest

ELSEWHERE = "192.0.2.1"
"""An address that no machine has (RFC 5737)."""
WORDS = "they are heard to the end although the server is told to go " * 3


def ask(site, text="Hello", model="echo"):
    with site.client() as client:
        said = client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])
    return said.choices[0].message.content


def test_wanted_models_are_launched_and_wanted_again_they_are_there(site, wait):
    first = site.local("--model", "echo", "--model", "echo-embed")
    pids = site.until_ready_replicas("echo", 1) | site.until_ready_replicas("echo-embed", 1)
    wait(lambda: "echo-embed is ready" in first.log.read_text(), "it says so")
    first.kill()
    second = site.local("--model", "echo", "--model", "unheard-of")
    assert site.until_ready_replicas("echo", 1) | site.until_ready_replicas("echo-embed", 1) == pids
    wait(lambda: "unheard-of could not be launched" in second.log.read_text(), "it says why")
    assert ask(site) == "Hello"


def test_a_second_server_of_the_same_home_is_refused(site):
    site.local()
    second = site.serve("xinfer-local", "-p", "1")
    assert second.wait() == 1
    assert "a supervisor already runs in" in second.log.read_text()
    assert site.get("/health")["status"] == "ok"


def test_a_taken_port_is_refused_and_nothing_stays_behind(site):
    with socket.create_server(("127.0.0.1", site.port)):
        refused = site.serve("xinfer-local", "-p", str(site.port))
        assert refused.wait() == 1
    assert f"port {site.port} of 127.0.0.1 is in use" in refused.log.read_text()
    assert site.processes() == []


def test_started_again_on_another_port_it_serves_the_same_replicas_there(site):
    first = site.local("--model", "echo")
    pids = site.until_ready_replicas("echo", 1)
    first.kill()
    left = site.port
    site.move()
    site.local()
    assert site.until_ready_replicas("echo", 1) == pids
    assert ask(site) == "Hello"
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", left)) != 0, "nobody listens where it was"


def test_a_gateway_is_adopted_unless_it_would_be_started_otherwise_now(site):
    first = site.local()
    [gateway] = site.gateways()
    first.kill()
    second = site.local()
    assert site.gateways() == [gateway]
    second.kill()
    site.local(max_body_bytes=64)
    assert site.gateways() != [gateway]
    assert site.call("POST", "/v1/chat/completions", content=b"x" * 65).status_code == 413


def test_ctrl_c_finishes_what_has_begun_and_leaves_nothing(site, wait):
    program = site.local()
    site.launch("echo", model_uid="slow", rate=40)
    with site.client() as client, concurrent.futures.ThreadPoolExecutor(5) as thread:

        def stream():
            answer = client.chat.completions.create(
                model="slow", messages=[{"role": "user", "content": WORDS}], stream=True
            )
            return "".join(chunk.choices[0].delta.content or "" for chunk in answer)

        streams = [thread.submit(stream) for _ in range(4)]
        whole = thread.submit(ask, site, WORDS, "slow")
        wait(lambda: sum(site.running().values()) == 5, "all have begun")
        program.send(signal.SIGINT)
        assert [each.result() for each in (*streams, whole)] == [WORDS] * 5
    assert program.wait() == 0
    assert site.processes() == []
    assert not {"Traceback", "ERROR", "WARNING"} & set(program.log.read_text().split())


def test_ended_while_a_model_loads_it_waits_for_nothing_and_leaves_nothing(site, wait):
    program = site.local(drain_timeout_s=600)
    body = {"model_name": "echo", "load_delay_s": 600}
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        launch = thread.submit(site.call, "POST", "/v1/models", json=body)
        wait(lambda: "xinfer.replica" in str(site.commands()), "it loads")
        program.send(signal.SIGTERM)
        assert launch.result().status_code == 503
    assert program.wait() == 0
    assert site.processes() == []


def test_ended_while_it_starts_it_leaves_nothing(site, wait):
    program = site.serve("xinfer-local", "-p", str(site.port))
    wait(site.gateways, "its gateway starts")
    program.send(signal.SIGTERM)
    assert program.wait() == 0
    assert site.processes() == []


@pytest.mark.parametrize(
    ("command", "args", "says"),
    [
        ("xinfer-local", ["-H", ELSEWHERE], f"of {ELSEWHERE}: "),
        ("xinfer-local", ["--routing-policy", "dice"], "least_loaded"),
        ("xinfer-worker", ["-H", ELSEWHERE], f"of {ELSEWHERE}: "),
        ("xinfer-worker", ["-e", "supervisor"], "'supervisor' is not the URL of a server"),
    ],
)
def test_what_cannot_be_is_refused_without_a_traceback(site, command, args, says):
    port = ["-p", str(site.port)] if command == "xinfer-local" else []
    program = site.serve(command, *port, *args)
    assert program.wait() == 1
    assert program.log.read_text().startswith("Error: ")
    assert says in program.log.read_text()
    assert site.processes() == []


def test_a_home_that_cannot_be_written_is_named(site):
    (site.root / "file").touch()
    program = site.serve("xinfer-local", "-p", str(site.port), home="file/home")
    assert program.wait() == 1
    assert str(site.root / "file") in program.log.read_text()
    assert "Traceback" not in program.log.read_text()


def test_a_worker_with_another_token_is_told_of_tokens(site, wait):
    site.local()
    worker = site.serve("xinfer-worker", "-e", site.url, home="other", token_file=site.root / "other-token")
    wait(lambda: "the same cluster token" in worker.log.read_text(), "it says so")
    assert len(site.get("/v1/workers")) == 1
