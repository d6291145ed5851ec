"""``xinfer status``: the whole cluster at a glance."""

import typer
from rich.markup import escape

from xinfer.cli.options import ApiKey, AsJson, Endpoint, connect
from xinfer.cli.screen import Grid, out
from xinfer.client import ClusterStatus, ModelStatus, WorkerStatus
from xinfer.client.answers import Device, ReplicaProgress

STATE_STYLES = {"READY": "green", "FAILED": "red", "STOPPED": "dim"}


def status(*, endpoint: Endpoint = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show workers with their devices, and models with their replicas.

    xinfer status

    xinfer status -e http://10.0.0.1:9997 --json
    """
    with connect(endpoint, api_key) as client:
        if as_json:
            out.print_json(data=client.http.call("GET", "/v1/cluster/info"))
            return
        cluster = client.cluster()
    out.print(headline(cluster))
    out.print(workers_table(cluster.workers))
    out.print(models_table(cluster.models) if cluster.models else "No model is deployed.")


def headline(cluster: ClusterStatus) -> str:
    """One line about the supervisor."""
    alive = sum(worker.alive for worker in cluster.workers)
    line = f"xinfer {cluster.version}, up {duration(cluster.uptime_s)}, workers alive: {alive}/{len(cluster.workers)}"
    return f"{line}, settling: waiting for the workers it knew" if cluster.settling else line


def duration(seconds: float) -> str:
    """A time span in its two largest units."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{value}{unit}" for value, unit in ((days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")) if value]
    return " ".join(parts[:2]) or "0s"


def workers_table(workers: tuple[WorkerStatus, ...]) -> Grid:
    """A row for each device of each worker."""
    table = Grid("worker", "address", "state", "device", "booked MiB", "replicas", "engines", title="Workers")
    for worker in workers:
        state = "[green]alive[/]" if worker.alive else f"[red]lost {duration(worker.last_seen_s_ago)} ago[/]"
        if worker.cordoned:
            state += "\n[yellow]draining[/]" if worker.draining else "\n[yellow]cordoned[/]"
        engines = ", ".join(sorted(name for name, engine in worker.engines.items() if engine.ok))
        devices = [_device(device, worker) for device in worker.devices]
        memory = [f"{booked_mib(worker, device.device_id)}/{device.memory_mib}" for device in worker.devices]
        table.add_row(
            escape(worker.name or worker.worker_id),
            worker.address,
            state,
            "\n".join(devices),
            "\n".join(memory),
            str(len(worker.replicas)),
            engines,
        )
    return table


def _device(device: Device, worker: WorkerStatus) -> str:
    name = escape(f"{device.device_id} {device.name}".strip())
    if not device.cordoned or worker.cordoned:
        return name
    return f"{name} [yellow]{'draining' if device.draining else 'cordoned'}[/]"


def booked_mib(worker: WorkerStatus, device_id: str) -> int:
    """MiB of a device that the replicas of its worker have booked; one that has ended has none."""
    return sum(
        part.memory_mib
        for replica in worker.replicas
        if replica.state not in ("FAILED", "STOPPED")
        for part in replica.devices
        if part.device_id == device_id
    )


def models_table(models: tuple[ModelStatus, ...]) -> Grid:
    """A row for each replica of each model; a failed one shows the first line of its reason."""
    table = Grid("model uid", "type", "engine", "replica", "worker", "state", "detail", title="Models")
    for model in models:
        head = (escape(model.model_uid), model.model_type, model.model_engine)
        if not model.replicas:
            table.add_row(*head, "", "", "PENDING", f"0 of {model.replica} replicas placed")
        for replica in model.replicas:
            workers = f"{len(replica.members)} workers" if replica.members else escape(replica.worker)
            table.add_row(*head, escape(replica.replica_id), workers, *_state(replica))
            head = ("", "", "")
            for member in replica.members:
                table.add_row(*head, f"  rank {member.rank}", escape(member.worker), *_state(member))
    return table


def _state(replica: ReplicaProgress) -> tuple[str, str]:
    style = STATE_STYLES.get(replica.state, "yellow")
    reason = replica.reason.strip().partition("\n")[0]
    detail = reason or replica.warning or (replica.stage if replica.stage != "ready" else "")
    return f"[{style}]{replica.state}[/]", escape(detail)


def add_to(app: typer.Typer) -> None:
    """Register the command of this module."""
    app.command("status")(status)
