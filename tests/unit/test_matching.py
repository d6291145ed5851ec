"""Which engine runs which weights: the order, the reasons, and what a launch picks."""

import socket
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from xinfer import plugins
from xinfer.catalog import builtin
from xinfer.catalog.families import Catalog, read_family
from xinfer.devices import Device
from xinfer.engines.base import Match, NoOptions
from xinfer.errors import InvalidRequest
from xinfer.ops import Kind
from xinfer.protocol import EngineOffer, LaunchRequest, WorkerHello, WorkerReport
from xinfer.spec import Adapter, Deployment, EnvironmentRequest, Estimate, Format, ModelSpec, ResourceRequest
from xinfer.supervisor.capacity import Ledger
from xinfer.supervisor.cluster import Cluster, Patience
from xinfer.supervisor.comparison import by_engine, compared
from xinfer.supervisor.events import WorkerJoined
from xinfer.supervisor.matching import Fit, Terms, combinations, hindrance_of, room_in
from xinfer.supervisor.peaks import Peaks, memory_of_engines
from xinfer.supervisor.placement.spread import POLICY
from xinfer.supervisor.registry import Registry

FAMILY = b"""
[[models]]
name = "tiny"
kind = "LLM"
sizes = [{billions = 1}, {billions = 4}]
[[models.variants]]
format = "gguf"
source = "%(here)s"
quantizations = ["Q4_K_M", "Q8_0"]
[[models.variants]]
format = "safetensors"
source = "%(here)s"
[[models.variants]]
format = "safetensors"
quantization = "awq-int4"
source = "%(here)s"
[shapes.1B]
layers = 2
hidden = 64
[shapes.4B]
layers = 4
hidden = 128
"""
FAMILY = FAMILY % {b"here": str(Path(__file__).parent).encode()}


class Torch:
    name: ClassVar[str] = "torchy"
    formats: ClassVar = frozenset({Format.SAFETENSORS})
    install: ClassVar[str] = "pip install torchy"
    preference: ClassVar[int] = 50
    Options: ClassVar = NoOptions

    @classmethod
    def accepts(cls, spec):
        if spec.format not in cls.formats:
            return Match(False, f"{cls.name} does not read {spec.format}")
        return Match(spec.quantization == "none", f"{cls.name} does not read {spec.quantization}")


class Gguf(Torch):
    name = "ggufy"
    formats = frozenset({Format.GGUF})
    preference = 60

    @classmethod
    def accepts(cls, spec):
        return Match(spec.format in cls.formats, f"{cls.name} does not read {spec.format}")


class Card(Torch):
    name = "cardy"
    preference = 40
    accelerator_preference = 90


ENGINES = {engine.name: engine for engine in (Torch, Gguf, Card)}


def family():
    tiny = read_family(FAMILY, "tiny.toml")
    # No one knows the size of such shapes, and these tests say what is needed themselves.
    models = tuple(msgspec.structs.replace(model, sizes=()) for model in tiny.models)
    return Catalog({"tiny": msgspec.structs.replace(tiny, models=models)})


CATALOG = family()


def worker(name="w", gpus=0, memory_mib=8000, **offers):
    devices = [Device(device_id="cpu0", kind="cpu", memory_mib=memory_mib, cores=4)]
    devices += [Device(device_id=f"gpu{i}", kind="cuda", index=i, memory_mib=4000, cores=100) for i in range(gpus)]
    return WorkerHello(
        worker_id=name,
        incarnation="1",
        name=name,
        address=f"{name}:1",
        host_id=name,
        version="0",
        devices=tuple(devices),
        engines={engine: EngineOffer(ok=True) for engine in ENGINES} | offers,
    )


GONE = EngineOffer(ok=False, reason="not installed; pip install it")
BUILDABLE = EngineOffer(ok=False, reason="not installed", installable=True)


def needs(sizes):
    """Estimates by quantization, of everything on every device."""

    def estimates(deployment):
        mib = sizes.get(deployment.spec.quantization, 100)
        kinds = ("cpu", "accelerator")
        return tuple(Estimate(device_kind=kind, needed_mib=mib, per_device_mib=mib) for kind in kinds)

    return estimates


def room_of(*hellos):
    cluster = Cluster(epoch=1, policy=POLICY, patience=Patience(), now=0.0)
    for hello in hellos:
        report = WorkerReport(worker_id=hello.worker_id, incarnation="1", sequence=1)
        cluster.handle(WorkerJoined(hello, report, 0.0))
    return room_in(Ledger(cluster.models, cluster.workers, count_leaving=False))


def choose(*hellos, sizes=None, room=True, **words):
    registry = Registry(CATALOG, ENGINES, needs(sizes or {}))
    request = LaunchRequest(**({"model_name": "tiny"} | words))
    return registry.choose(request, hellos, 1.0, room_of(*hellos) if room else None)


def picked(*hellos, **words):
    choice = choose(*hellos, **words)
    return choice.deployment.engine, choice.deployment.spec.quantization


def test_the_engine_that_is_preferred_on_the_devices_and_the_first_of_its_weights():
    assert picked(worker()) == ("ggufy", "Q4_K_M")
    assert picked(worker(gpus=1)) == ("cardy", "none")
    assert picked(worker(gpus=1), n_gpu=None) == ("ggufy", "Q4_K_M")


def test_what_fits_goes_before_what_is_preferred_and_it_is_said():
    choice = choose(worker(), sizes={"Q4_K_M": 9000, "Q8_0": 9500, "none": 200})
    assert choice.deployment.engine == "torchy"
    assert choice.picked.startswith(
        "torchy with tiny (safetensors): ggufy with tiny (gguf, Q4_K_M) would come first, but"
    )
    assert "too large by 1000 MiB" in choice.picked


def test_where_nothing_fits_the_first_is_refused_later_with_its_own_numbers():
    assert picked(worker(), sizes={"Q4_K_M": 9000, "Q8_0": 9500, "none": 9999}) == ("ggufy", "Q4_K_M")


def test_what_is_picked_has_its_reasons():
    assert choose(worker()).picked == (
        "ggufy with tiny (gguf, Q4_K_M): the engine that is preferred on CPUs; the first choice of its weights"
    )
    assert (
        choose(worker(gpus=1)).picked == "cardy with tiny (safetensors): the engine that is preferred on accelerators"
    )
    only = worker(torchy=GONE, cardy=GONE)
    assert "no other engine can serve it here" in choose(only).picked
    named = choose(worker(), model_engine="ggufy", quantization="Q8_0").picked
    assert named == "ggufy with tiny (gguf, Q8_0)"


def test_installed_goes_before_installable():
    hello = worker(ggufy=BUILDABLE)
    assert picked(hello) == ("torchy", "none")
    assert picked(hello, model_engine="ggufy") == ("ggufy", "Q4_K_M")
    assert "installed first" in choose(hello, model_engine="ggufy").picked


def test_a_launch_that_would_leave_accelerators_idle_goes_to_the_cpu_and_says_why():
    slow = {engine: EngineOffer(ok=True, cpu_only="its build is for the CPU") for engine in ENGINES}
    choice = choose(worker(gpus=1, **slow))
    assert choice.deployment.request.device_kind == "cpu"
    (warning,) = choice.warnings
    assert "there are accelerators, but cardy computes on the CPU (w: its build is for the CPU)" in warning
    away = choose(worker("a", gpus=1, **dict.fromkeys(ENGINES, GONE)), worker("b"))
    assert "a: cardy is not installed there" in away.warnings[0]
    assert away.deployment.request.device_kind == "cpu"


def test_what_computes_on_accelerators_goes_before_what_does_not():
    slow = EngineOffer(ok=True, cpu_only="its build is for the CPU")
    hello = worker(gpus=1, cardy=slow, ggufy=slow)
    assert picked(hello) == ("torchy", "none")
    assert choose(hello).warnings == ()


@pytest.mark.parametrize("words", [{"n_gpu": None}, {"n_gpu": 0}])
def test_who_asks_for_the_cpu_is_not_warned(words):
    slow = {engine: EngineOffer(ok=True, cpu_only="its build is for the CPU") for engine in ENGINES}
    assert choose(worker(gpus=1, **slow), **words).warnings == ()


def test_who_asks_for_an_accelerator_does_not_get_a_cpu():
    slow = {engine: EngineOffer(ok=True, cpu_only="its build is for the CPU") for engine in ENGINES}
    with pytest.raises(InvalidRequest, match=r"cannot compute on the accelerators here .w: its build is for the CPU"):
        choose(worker(gpus=1, **slow), n_gpu=1)


def terms(*hellos, **fields):
    given = {"environment": EnvironmentRequest(), "wanted": ResourceRequest()} | fields
    return Terms(workers=hellos, **given)


def hindrances(found):
    return [(one.engine.name, one.spec.quantization, hindrance_of(one)) for one in found]


def test_everything_else_has_its_reason_the_easiest_to_mend_first():
    found = combinations(ENGINES.values(), CATALOG.find("tiny"), terms(worker(torchy=GONE)))
    assert hindrances(found)[:4] == [
        ("ggufy", "Q4_K_M", ""),
        ("ggufy", "Q8_0", ""),
        ("cardy", "none", ""),
        ("torchy", "none", "library"),
    ]
    rest = hindrances(found)[4:]
    assert [kind for _, _, kind in rest] == ["model"] * 2 + ["format"] * 6
    assert found[3].obstacle.command == "pip install torchy"


def test_adapters_environments_and_missing_files_are_obstacles():
    specs = CATALOG.find("tiny")
    adapters = (Adapter(name="a", path="/a"),)
    assert {hindrance_of(one) for one in combinations([Gguf], specs[:1], terms(worker(), adapters=adapters))} == {
        "adapters"
    }
    own = EnvironmentRequest(mode="own")
    assert {hindrance_of(one) for one in combinations([Gguf], specs[:1], terms(worker(), environment=own))} == {
        "environment"
    }
    gone = msgspec.structs.replace(specs[0], source="/nowhere/at/all")
    (found,) = combinations([Gguf], [gone], terms(worker()))
    assert hindrance_of(found) == "weights"
    assert "there is nothing at /nowhere/at/all" in found.obstacle.reason


def test_a_refusal_has_few_reasons_and_the_most_useful_first():
    many = {f"{word}_engine": type(word, (Torch,), {"name": f"{word}_engine"}) for word in "abcdef"}
    registry = Registry(CATALOG, {**many, "ggufy": Gguf})
    hello = worker(**{name: EngineOffer(ok=False, reason=f"not installed: pip install {name}") for name in many})
    hello = msgspec.structs.replace(hello, engines=hello.engines | {"ggufy": GONE})
    with pytest.raises(InvalidRequest) as refused:
        registry.resolve(LaunchRequest(model_name="tiny"), [hello], now=1.0)
    assert refused.value.message.startswith(
        "no engine can serve 'tiny' here: ggufy: no worker has it: not installed; pip"
    )
    assert refused.value.message.count("no worker has it") == 4
    assert refused.value.message.endswith("; and 3 more reasons: xinfer engine query tiny")


def test_room_says_where_or_by_how_much_it_is_too_large():
    room = room_of(worker(gpus=2))
    spec = ModelSpec(name="x", kind=Kind.LLM, source="", format=Format.NONE)

    def fit(**request):
        return room(Deployment(model_uid="x", spec=spec, engine="torchy", request=ResourceRequest(**request)))

    assert fit(memory_mib=1000) == Fit(True, "accelerator", "gpu0 of w", 1000)
    assert fit(memory_mib=1000, devices=2).where == "gpu0, gpu1 of w"
    refused = fit(memory_mib=4500)
    assert (refused.fits, refused.missing_mib) == (False, 500)
    assert refused.reason == "too large by 500 MiB for what is free (it needs 4500 MiB)"
    assert fit(memory_mib=1000, worker="nobody").fits is False


def query(*hellos, sizes=None, **words):
    registry = Registry(CATALOG, ENGINES, needs(sizes or {}))
    return compared(registry.matches(LaunchRequest(**({"model_name": "tiny"} | words)), hellos, room_of(*hellos)))


def test_a_query_has_everything_the_best_first():
    found = query(worker(torchy=GONE, cardy=BUILDABLE), sizes={"Q8_0": 9000})
    rows = found["combinations"]
    assert len(rows) == len(ENGINES) * 4
    best, second, third, fourth = rows[:4]
    assert found["best"] == best
    assert (best["model_engine"], best["quantization"], best["runs"]) == ("ggufy", "Q4_K_M", True)
    assert (best["fits_on"], best["needed_mib"], best["device_kind"]) == ("cpu0 of w", 100, "cpu")
    assert (second["model_engine"], second["installs_engine"]) == ("cardy", True)
    assert second["command"] == "xinfer engine install cardy"
    assert (third["quantization"], third["hindrance"], third["missing_mib"]) == ("Q8_0", "memory", 1000)
    assert (fourth["model_engine"], fourth["hindrance"]) == ("torchy", "library")
    assert all(row["reason"] for row in rows if not row["runs"])


def test_the_words_of_a_launch_narrow_a_query():
    found = query(worker(), model_engine="ggufy", quantization="Q8_0")
    assert [(row["model_engine"], row["quantization"]) for row in found["combinations"]] == [("ggufy", "Q8_0")]


def test_nothing_that_runs_is_no_best():
    assert query(worker(**dict.fromkeys(ENGINES, GONE)))["best"] is None
    assert query(worker(**dict.fromkeys(ENGINES, BUILDABLE)))["best"] is None, "a launch does not install unasked"


def test_the_answer_in_the_shape_of_xinference():
    table = by_engine(query(worker(torchy=GONE), sizes={"Q8_0": 9000}))
    assert table["ggufy"] == [
        {
            "model_name": "tiny",
            "model_format": "gguf",
            "model_size_in_billions": None,
            "quantizations": ["Q4_K_M", "Q8_0"],
        }
    ]
    assert table["torchy"] == "no worker has it: not installed; pip install it"


@pytest.fixture(scope="module")
def real():
    engines = plugins.engines()
    hello = worker(gpus=1)
    hello = msgspec.structs.replace(hello, engines={name: EngineOffer(ok=True) for name in engines})
    peaks = Peaks((), memory_of_engines(engines))
    return Registry(builtin(), engines, peaks.estimates), hello


PICKLED = "sensevoice-small"
"""Of a kind that is served, but not its files."""


@pytest.mark.parametrize(
    "name", [name for name in builtin().names() if builtin().find(name)[0].ops and name != PICKLED]
)
def test_every_model_of_the_catalog_has_an_answer_without_the_network(real, name, monkeypatch):
    monkeypatch.setattr(socket, "socket", None)
    registry, hello = real
    found = compared(registry.matches(LaunchRequest(model_name=name), [hello], room_of(hello)))
    assert found["default_size"] in found["sizes"]
    assert {row["hindrance"] for row in found["combinations"]} <= {"", "memory", "format", "model", "library"}
    table = by_engine(found)
    assert any(isinstance(rows, list) for rows in table.values())
    assert [row["model_size_in_billions"] for rows in table.values() if isinstance(rows, list) for row in rows]


def test_sizes_are_named_as_xinference_names_them(real):
    registry, hello = real
    request = LaunchRequest(model_name="qwen3", model_engine="transformers")
    table = by_engine(compared(registry.matches(request, [hello], room_of(hello))))
    sizes = [row["model_size_in_billions"] for row in table["transformers"]]
    assert "0_6" in sizes
    assert 8 in sizes
