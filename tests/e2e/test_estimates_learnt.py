"""An estimate, the peak that a real replica shows, and that the supervisor still knows it after a restart."""


def test_what_a_replica_used_is_known_after_everything_was_restarted(site, wait):
    program = site.local(device_period_s=0.2)
    before = estimate_of(site)
    assert (before["observed_mib"], before["needed_mib"]) == (None, before["per_device_mib"])

    uid = site.launch("echo")
    (device,) = site.get("/v1/cluster/devices")
    assert [piece["memory_mib"] for piece in device["slices"]] == [before["needed_mib"]]
    with site.client() as client:
        client.chat.completions.create(model=uid, messages=[{"role": "user", "content": "hello"}])
    peak = wait(lambda: estimate_of(site)["observed_mib"], "the replica that has served shows a peak")
    after = estimate_of(site)
    assert after["needed_mib"] >= peak
    assert after["error_percent"] == round(100 * (after["per_device_mib"] - peak) / peak, 1)

    site.terminate(uid)
    program.stop()
    site.local(device_period_s=0.2)
    assert estimate_of(site)["observed_mib"] >= peak
    done = site.run("estimate", "echo")
    assert done.returncode == 0, done.stderr
    assert "observed peak" in done.stdout


def estimate_of(site):
    answer = site.call("POST", "/v1/estimates", json={"model_name": "echo"}).raise_for_status().json()
    return answer["estimates"]["cpu"]
