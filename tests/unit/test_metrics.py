import os
import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from xinfer.telemetry.metrics import GatewayMetrics


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    """(name, label values in the order of their names) -> value."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_requests_are_counted_by_operation_model_and_status():
    metrics = GatewayMetrics()
    for status in (200, 200, 503):
        metrics.finished("chat", "m", status, 0.5)
    metrics.finished("embedding", "m", 200, 0.001)
    found = samples(metrics.exposition([]))
    assert found["xinfer_requests_total", "m", "chat", "200"] == 2
    assert found["xinfer_requests_total", "m", "chat", "503"] == 1
    assert found["xinfer_requests_total", "m", "embedding", "200"] == 1
    assert found["xinfer_request_duration_seconds_count", "m", "chat"] == 3
    assert found["xinfer_request_duration_seconds_sum", "m", "chat"] == 1.5


@pytest.mark.parametrize(("seconds", "bucket"), [(0.005, "0.01"), (0.5, "0.64"), (80.0, "81.92"), (1000.0, "+Inf")])
def test_a_duration_falls_into_its_bucket(seconds, bucket):
    metrics = GatewayMetrics()
    metrics.finished("chat", "m", 200, seconds)
    found = samples(metrics.exposition([]))
    full = [key[1] for key, value in found.items() if key[0] == "xinfer_request_duration_seconds_bucket" and value]
    assert full[0] == bucket


def test_the_first_byte_of_streams_is_timed():
    metrics = GatewayMetrics()
    metrics.first_byte("chat", "m", 0.03)
    found = samples(metrics.exposition([]))
    assert found["xinfer_time_to_first_byte_seconds_count", "m", "chat"] == 1
    assert found["xinfer_time_to_first_byte_seconds_bucket", "0.02", "m", "chat"] == 0
    assert found["xinfer_time_to_first_byte_seconds_bucket", "0.04", "m", "chat"] == 1


def test_the_loads_are_those_of_now():
    metrics = GatewayMetrics()
    metrics.exposition([("m-0", 1, 2), ("m-1", 3, 4)])
    found = samples(metrics.exposition([("m-1", 5, 0)]))
    assert {key: value for key, value in found.items() if key[0].startswith("xinfer_replica")} == {
        ("xinfer_replica_requests_running", "m-1"): 5,
        ("xinfer_replica_requests_queued", "m-1"): 0,
    }


def test_two_gateways_in_one_process_do_not_share_counters():
    one, other = GatewayMetrics(), GatewayMetrics()
    one.finished("chat", "m", 200, 0.1)
    assert ("xinfer_requests_total", "m", "chat", "200") not in samples(other.exposition([]))


def test_names_with_quotes_and_newlines_stay_one_label():
    metrics = GatewayMetrics()
    metrics.finished("chat", 'a"b\n\\c', 200, 0.1)
    assert samples(metrics.exposition([]))["xinfer_requests_total", 'a"b\n\\c', "chat", "200"] == 1


COUNT_ONE = """
from xinfer.telemetry.metrics import GatewayMetrics
metrics = GatewayMetrics(shared=True)
metrics.finished("chat", "m", 200, 0.5)
print(metrics.exposition([("m-0", 1, 2)]).decode())
"""


def test_gateways_that_share_a_folder_count_together(tmp_path):
    env = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for number in (1, 2, 3):
        done = subprocess.run([sys.executable, "-c", COUNT_ONE], env=env, capture_output=True, check=True, timeout=60)
        found = samples(done.stdout)
        assert found["xinfer_requests_total", "m", "chat", "200"] == number
        assert found["xinfer_request_duration_seconds_count", "m", "chat"] == number
        assert found["xinfer_replica_requests_running", "m-0"] == 1
