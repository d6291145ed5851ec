"""The founding case on the CPU: five models with a slice each share one device, and the sixth is refused in numbers."""

import json
from concurrent.futures import ThreadPoolExecutor

SLICE = {"gpumem_percentage": 10, "gpucores": 20}


def test_five_slices_share_one_device_and_the_sixth_is_refused(site, wait):
    site.local(device_period_s=0.5)
    uid = site.launch("echo", model_uid="shared", replica=5, **SLICE)
    site.until_ready_replicas(uid, 5)

    (device,) = site.get("/v1/cluster/devices")
    each_mib = device["memory_mib"] // 10
    assert [(piece["memory_mib"], piece["cores_percent"]) for piece in device["slices"]] == [(each_mib, 20)] * 5
    assert device["reserved_cores_percent"] == 100

    client = site.client()
    with client, ThreadPoolExecutor(5) as pool:
        asked = [f"request {number}" for number in range(20)]
        answers = pool.map(lambda text: say(client, uid, text), asked)
        assert all(text in answer for text, answer in zip(asked, answers, strict=True))

    explained(site)
    refused(site, each_mib, device)

    def used():
        (now,) = site.get("/v1/cluster/devices")
        return all(piece["used_mib"] for piece in now["slices"])

    wait(used, "what each slice uses is visible")


def say(client, uid, text):
    answer = client.chat.completions.create(model=uid, messages=[{"role": "user", "content": text}])
    return answer.choices[0].message.content


def explained(site):
    """Nothing is launched by asking; the command says what would fit."""
    body = {"model_name": "echo", "model_uid": "sixth", **SLICE}
    plan = site.call("POST", "/v1/placements:explain", json=body).raise_for_status().json()
    assert not plan["fits"]
    assert plan["explanation"]["reasons"] == {"InsufficientCores": 1}
    done = site.run("launch", "echo", "-u", "sixth", "--gpumem-percentage", "10", "--gpucores", "20", "--dry-run")
    assert done.returncode == 1, done.stderr
    assert "InsufficientCores: falls short by 20 % of its cores" in done.stdout
    assert site.running_models() == {"shared"}


def refused(site, each_mib, device):
    wanted_mib = device["capacity_mib"] - 5 * each_mib + 100
    body = {"model_name": "echo", "model_uid": "sixth", "gpumem": wanted_mib, "gpucores": 20}
    answer = site.call("POST", "/v1/models", json=body)
    assert answer.status_code == 409
    error = answer.json()["error"]
    assert error["code"] == "insufficient_capacity"
    assert f"'sixth' needs {wanted_mib} MiB and 20 % of the cores on one device" in error["message"]
    assert "falls short by" in error["message"]
    (verdict,) = error["details"]["devices"]
    assert (verdict["needed_mib"], verdict["needed_cores"], verdict.get("free_cores", 0)) == (wanted_mib, 20, 0)
    assert verdict["missing_mib"] >= 100

    answer = site.call("POST", "/v1/models", json={**body, "gpucores": 101})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "gpucores"), json.dumps(answer.json())
