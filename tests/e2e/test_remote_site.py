"""Models that another server has, and models that another one stands in for, on a real site."""

import re

import openai
import pytest

HELLO = [{"role": "user", "content": "one two three"}]


def test_a_model_of_another_server_is_used_like_any_other(site):
    """The other server is the site itself: what it serves as "echo" is served again as "far/echo"."""
    site.local("--model", "echo")
    site.until_ready_replicas("echo", 1)
    launched = site.run(
        *("launch", "--model-name", "far/echo", "--model-engine", "remote", "--model", "echo"),
        *("--base-url", f"{site.url}/v1", "--remote-api-key", "sk-hush"),
    )
    assert launched.returncode == 0, launched.stderr
    with site.client() as client:
        said = client.chat.completions.create(model="far/echo", messages=HELLO)
        assert said.choices[0].message.content == "one two three"
        stream = client.chat.completions.create(model="far/echo", messages=HELLO, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == "one two three"
        with pytest.raises(openai.BadRequestError, match="temperature"):
            client.chat.completions.create(model="far/echo", messages=HELLO, temperature=-1)
    (replica,) = site.replicas("far/echo")
    assert [device["device_id"] for device in replica["devices"]] == ["cpu"]
    assert "sk-hush" not in str(site.get("/v1/models/instances"))
    assert "sk-hush" not in str(site.get("/v1/models"))
    logs = [log.read_text(errors="replace") for log in site.root.rglob("log")]
    assert logs
    assert not any("sk-hush" in log for log in logs)


def test_embeddings_and_a_launch_that_cannot_work(site):
    site.local("--model", "echo-embed")
    site.until_ready_replicas("echo-embed", 1)
    base = {"model_engine": "remote", "base_url": site.url, "model_type": "embedding"}
    site.launch("far-embed", model="echo-embed", **base)
    with site.client() as client:
        near = client.embeddings.create(model="echo-embed", input="hello", encoding_format="float")
        far = client.embeddings.create(model="far-embed", input="hello", encoding_format="float")
        assert far.data[0].embedding == near.data[0].embedding
        with pytest.raises(openai.BadRequestError, match="cannot do chat"):
            client.chat.completions.create(model="far-embed", messages=HELLO)
    refused = site.call("POST", "/v1/models", json={"model_name": "far", "model": "nobody", **base})
    assert refused.status_code == 500
    assert re.search("has no model 'nobody'; it has: .*echo-embed", refused.json()["error"]["message"])
    wrong = site.call("POST", "/v1/models", json={"model_name": "nobody", "model_engine": "remote"})
    assert wrong.status_code == 400
    assert "base_url" in wrong.json()["error"]["message"]


def test_one_model_stands_in_for_another_until_that_is_ready(site, wait):
    site.local("--model", "echo")
    site.until_ready_replicas("echo", 1)
    launched = site.run(
        *("launch", "echo", "--model-uid", "slow", "--load_delay_s", "3600", "--fallback", "echo", "--no-wait")
    )
    assert launched.returncode == 0, launched.stderr
    wait(lambda: site.get_or_none("/v1/models/slow"), "it is deployed")
    with site.client() as client:
        answer = client.chat.completions.with_raw_response.create(model="slow", messages=HELLO)
        assert answer.headers["x-xinfer-model"] == "echo"
        assert answer.parse().choices[0].message.content == "one two three"
    itself = site.call("POST", "/v1/models", json={"model_name": "echo", "model_uid": "a", "fallback": "a"})
    assert itself.status_code == 400
    assert itself.json()["error"]["param"] == "fallback"
