"""What gateways are told of adapters and of models that sleep, and what may be asked of them."""

import msgspec
import pytest

from xinfer.errors import Conflict, InvalidRequest, LoadFailed, NotFound, UnknownModel, UnsupportedParameter
from xinfer.protocol import AdapterFailure, Standing
from xinfer.routes import Availability
from xinfer.spec import Adapter
from xinfer.supervisor import standing, views
from xinfer.supervisor.events import PublishRoutes, SendAssignments

A, B = Adapter(name="a", path="/a", rank=4, base="x"), Adapter(name="b", path="/b")


def serve(world, deployment, **fields):
    worker = world.worker("w")
    world.set(msgspec.structs.replace(deployment(replicas=2), **fields))
    worker.obey()
    return worker


def become(worker, *standings):
    for (replica_id, status), now in zip(sorted(worker.statuses.items()), standings, strict=True):
        worker.statuses[replica_id] = msgspec.structs.replace(status, standing=now)
    return worker.report()


def change(world, **fields):
    return world.set(msgspec.structs.replace(world.cluster.models["m"].deployment, **fields))


def test_an_adapter_is_routed_to_where_it_is_loaded(world, deployment):
    worker = serve(world, deployment, adapters=(A,))
    assert world.route("a").availability is Availability.RECOVERING
    become(worker, Standing(), Standing(adapters=(A,)))
    route = world.route("a")
    assert (route.availability, route.parent) == (Availability.READY, "m")
    assert world.instances_routed("a") == ["m-1"]
    assert world.instances_routed("m") == ["m-0", "m-1"]
    assert {"parent": "m", "root": "/a", "lora_rank": 4, "base_model": "x"}.items() <= route.card.items()
    failure = AdapterFailure(adapter=A, reason="broken\nin places")
    become(worker, Standing(failures=(failure,)), Standing(failures=(failure,)))
    assert (world.route("a").availability, world.route("a").message) == (Availability.FAILED, "broken")


def test_a_change_of_adapters_keeps_every_place_and_is_sent(world, deployment, of):
    worker = serve(world, deployment)
    places = world.places()
    commands = change(world, adapters=(B,))
    (sent,) = of(SendAssignments, commands)
    assert {item.deployment.adapters for item in sent.assignments.items} == {(B,)}
    assert world.places() == places
    worker.obey(standing=Standing(adapters=(B,)))
    assert world.places() == places
    change(world, adapters=())
    assert "b" not in world.cluster.table.models


def test_a_model_that_is_to_sleep_is_routed_to_no_more_until_it_is_awake(world, deployment, of):
    worker = serve(world, deployment, adapters=(A,))
    become(worker, *[Standing(adapters=(A,))] * 2)
    assert of(PublishRoutes, change(world, sleep_level=1))
    for name in ("m", "a"):
        assert (world.route(name).availability, world.route(name).endpoints) == (Availability.ASLEEP, ())
    become(worker, *[Standing(adapters=(A,), sleep_level=1)] * 2)
    change(world, sleep_level=0)
    assert (world.route().availability, world.route().endpoints) == (Availability.RECOVERING, ())
    become(worker, Standing(adapters=(A,), sleep_level=1), Standing(adapters=(A,)))
    assert world.instances_routed("m") == world.instances_routed("a") == ["m-1"]


def test_names_are_shared_by_models_and_adapters(world, deployment):
    serve(world, deployment, adapters=(A,))
    cluster = world.cluster
    for name in ("m", "a"):
        with pytest.raises(Conflict, match="in use"):
            standing.with_adapter(cluster, "m", Adapter(name=name, path="/elsewhere"))
    assert standing.with_adapter(cluster, "m", A).adapters == (A,), "the very same one"
    assert standing.with_adapter(cluster, "m", B).adapters == (A, B)
    with pytest.raises(Conflict, match="adapter of 'm'"):
        standing.require_free_names(cluster, deployment("a"))
    other = msgspec.structs.replace(deployment("n"), adapters=(Adapter(name="m", path="/"),))
    with pytest.raises(Conflict, match="a model"):
        standing.require_free_names(cluster, other)
    own = msgspec.structs.replace(deployment("n"), adapters=(Adapter(name="n", path="/"),))
    with pytest.raises(Conflict, match="both"):
        standing.require_free_names(cluster, own)
    standing.require_free_names(cluster, cluster.models["m"].deployment)  # in place of itself, once it has failed


def test_what_may_not_be_asked(world, deployment):
    serve(world, deployment, adapters=(A,))
    cluster = world.cluster
    assert standing.without_adapter(cluster, "m", "a").adapters == ()
    with pytest.raises(NotFound, match="it has: a"):
        standing.without_adapter(cluster, "m", "b")
    with pytest.raises(UnknownModel):
        standing.with_adapter(cluster, "nobody", B)
    with pytest.raises(UnknownModel, match="xinfer adapter remove m a"):
        standing.awake(cluster, "a")
    with pytest.raises(InvalidRequest, match="1 and 2"):
        standing.asleep(cluster, "m", 3)
    change(world, engine="sentence_transformers")
    with pytest.raises(UnsupportedParameter, match="these do: echo, llama\\.cpp, sglang, transformers, vllm"):
        standing.with_adapter(cluster, "m", B)
    with pytest.raises(UnsupportedParameter, match="these can: echo, vllm"):
        standing.asleep(cluster, "m", 1)


def test_when_an_order_is_obeyed(world, deployment):
    worker = serve(world, deployment)

    def obeyed(adapter=""):
        model = world.cluster.models["m"]
        return standing.obeyed(model.deployment, views.statuses(model, world.cluster.workers), adapter)

    assert obeyed()
    change(world, adapters=(A, B))
    become(worker, Standing(adapters=(A, B)), Standing(adapters=(A,)))
    assert not obeyed("b")
    become(worker, Standing(adapters=(A, B)), Standing(adapters=(B, A)))
    assert obeyed("b")
    broken = AdapterFailure(adapter=A, reason="broken")
    become(worker, *[Standing(adapters=(B,), failures=(broken,))] * 2)
    assert obeyed("b")
    with pytest.raises(LoadFailed, match="broken"):
        obeyed("a")
    change(world, sleep_level=1)
    assert not obeyed()
    become(worker, Standing(sleep_level=1), Standing(complaint="no"))
    with pytest.raises(LoadFailed, match="no"):
        obeyed()
