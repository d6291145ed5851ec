"""``docs/metrics.md`` and the code know the same metrics."""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from xinfer.slices.fit import Reason
from xinfer.telemetry.devices import DEVICE_LABELS, ClusterSample
from xinfer.telemetry.metrics import GatewayMetrics

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(xinfer_\w+)` \| (\w+) \| ?(.*) \|$", re.MULTILINE)
TABLES = {name: (kind, rest) for name, kind, rest in ROW.findall(DOCS.read_text())}


def exposed():
    """Name as people write it in queries -> type."""
    text = GatewayMetrics().exposition([], ClusterSample(age_s=0.0)).decode()
    return {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in text_string_to_metric_families(text)
        if family.name.startswith("xinfer_")
    }


def test_the_page_has_every_metric_with_its_type_and_no_other():
    assert {name: kind for name, (kind, _) in TABLES.items()} == exposed()


def test_queries_name_metrics_that_there_are():
    quoted = set(re.findall(r"\bxinfer_\w+", DOCS.read_text()))
    assert quoted <= exposed().keys()


def test_the_reasons_and_the_labels_are_those_of_the_code():
    _, text = TABLES["xinfer_placement_rejects_total"]
    # A place is only refused by devices that are there.
    assert set(re.findall(r"`([A-Z]\w+)`", text)) - {"NoWorker"} == set(Reason) - {Reason.UNKNOWN_DEVICE}
    assert ", ".join(f"`{label}`" for label in DEVICE_LABELS) in DOCS.read_text()
