"""``xinfer models pull | cached | remove | pause | resume``: the weights on the workers, or on this machine."""

import time
from collections.abc import Iterable
from typing import Annotated, NoReturn

import typer
from rich.markup import escape

from xinfer.cli.download_bars import DownloadBars
from xinfer.cli.options import ApiKey, AsJson, Endpoint, connect
from xinfer.cli.screen import Grid, err, out
from xinfer.cli.weights_here import cached_here, pull_here, remove_here
from xinfer.client import Client, Unreachable
from xinfer.client.weights import CachedStatus, PullProgress, PullStatus, WorkerWeights
from xinfer.errors import DownloadFailed

MIB = 1024 * 1024
HERE = "this machine"

Workers = Annotated[
    list[str] | None,
    typer.Option("--worker", metavar="WORKER", help="Only this worker; may be repeated. Default: all of them."),
]
Local = Annotated[bool, typer.Option("--local", help="On this machine, whether there is a server or not.")]
Uid = Annotated[str, typer.Argument(metavar="MODEL", help="Uid of a model that is being launched.")]


def pull(
    name: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A name of the catalog, or an id: OWNER/NAME, hf:..., ms:...#PATTERN."),
    ],
    *,
    size: Annotated[str | None, typer.Option("-s", "--size", help="Size, as in the name: 0.6b, 30b-a3b.")] = None,
    weights_format: Annotated[str | None, typer.Option("-f", "--format", help="safetensors, gguf, mlx, ...")] = None,
    quantization: Annotated[
        str | None, typer.Option("-q", "--quantization", help="As xinfer models catalog MODEL lists them.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare what is there with its hashes, too.")] = False,
    worker: Workers = None,
    local: Local = False,
    endpoint: Endpoint = None,
    api_key: ApiKey = None,
) -> None:
    """Download weights, so that launches need not: to every worker, or where no server runs, to this machine.

    What is there already is not downloaded again.

    [dim]Examples:[/]

    xinfer models pull qwen3 --size 0.6b --format gguf --quantization Q8_0

    xinfer models pull BAAI/bge-m3 --worker gpu-1

    The hub is chosen by XINFER_MODEL_SRC; mirrors by XINFER_HF_ENDPOINT and XINFER_MS_ENDPOINT; tokens are HF_TOKEN and
    MODELSCOPE_API_TOKEN: of the server and its workers, or here with --local. Ctrl-C ends the download and keeps what
    came; the same command goes on where it was.
    """
    given = {"model_size_in_billions": size, "model_format": weights_format, "quantization": quantization}
    words = {key: value for key, value in given.items() if value is not None}
    with connect(endpoint, api_key) as client:
        if not _use_server(client, local=local, named=bool(endpoint or worker)):
            try:
                _print_ready(HERE, pull_here(name, words, verify=verify))
            except KeyboardInterrupt:
                _say_how_to_go_on()
            return
        begun = client.pull(name, workers=worker or (), verify=verify, **words)
        _print_ended(_followed(client, name, begun))


def cached(
    *,
    worker: Workers = None,
    local: Local = False,
    endpoint: Endpoint = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show the weights that were downloaded: on which worker, where from, how large, who uses them."""
    with connect(endpoint, api_key) as client:
        if _use_server(client, local=local, named=bool(endpoint or worker)):
            found = client.weights(worker or ())
        else:
            found = {HERE: WorkerWeights(cached=tuple(cached_here()))}
    rows = [(name, one) for name, here in found.items() for one in here.cached]
    if as_json:
        fields = CachedStatus.__struct_fields__
        out.print_json(data=[{"worker": name} | {key: getattr(one, key) for key in fields} for name, one in rows])
    elif not rows:
        out.print("Nothing was downloaded: xinfer models pull MODEL, or launch one.")
    else:
        out.print(_table(rows))


def remove(
    name: Annotated[str, typer.Argument(metavar="SOURCE", help="As xinfer models cached shows it, or OWNER/NAME.")],
    *,
    worker: Workers = None,
    local: Local = False,
    endpoint: Endpoint = None,
    api_key: ApiKey = None,
) -> None:
    """Remove weights from every worker, unless replicas use them; also downloads that were not finished."""
    with connect(endpoint, api_key) as client:
        if _use_server(client, local=local, named=bool(endpoint or worker)):
            freed = client.remove_weights(name, worker or ())
        else:
            freed = remove_here(name)
    out.print(f"Removed {escape(name)}: {freed / MIB:.0f} MiB free.")


def pause(model: Uid, *, endpoint: Endpoint = None, api_key: ApiKey = None) -> None:
    """Let the download that a launch waits for rest. What came is kept, and so are its slices, over every restart."""
    with connect(endpoint, api_key) as client:
        client.pause(model)
    out.print(f"The download of {model} is paused. Go on: xinfer models resume {model}", markup=False)


def resume(model: Uid, *, endpoint: Endpoint = None, api_key: ApiKey = None) -> None:
    """Go on with a download that was paused, from where it was."""
    with connect(endpoint, api_key) as client:
        client.resume(model)
    out.print(f"The download of {model} goes on. See how far it is: xinfer status", markup=False)


def _use_server(client: Client, *, local: bool, named: bool) -> bool:
    """Whether a server is to act. One that was not named need not be there: then it is this machine.

    Raises:
        Unreachable: it was named, and does not answer.
    """
    if local:
        return False
    try:
        client.http.call("GET", "/health")
    except Unreachable:
        if named:
            raise
        err.print(f"No server answers at {client.http.base_url}: on this machine.", style="dim", soft_wrap=True)
        return False
    return True


def _followed(client: Client, title: str, begun: PullProgress) -> PullProgress:
    """Show a download until it has ended. Ctrl-C ends it."""
    now = begun
    try:
        with DownloadBars(title) as bars:
            for now in client.follow_pull(begun.name):
                for worker, status in now.workers.items():
                    bars.update(status.files, status.stage, worker if len(now.workers) > 1 else "")
                bars.total(now.downloaded, now.total)
    except KeyboardInterrupt:
        client.cancel_pull(begun.name)
        _say_how_to_go_on()
    return now


def _say_how_to_go_on() -> NoReturn:
    err.print("\nInterrupted. What came is kept; the same command goes on from there.")
    raise typer.Exit(130)


def _print_ended(ended: PullProgress) -> None:
    """Say what became of a download on each worker.

    Raises:
        DownloadFailed: it failed on one of them.
    """
    for worker, status in ended.workers.items():
        if status.state == "ready":
            _print_ready(worker, status)
    failed = {worker: status for worker, status in ended.workers.items() if status.state != "ready"}
    if failed:
        raise DownloadFailed("; ".join(f"{name}: {status.reason or status.stage}" for name, status in failed.items()))


def _print_ready(where: str, pulled: PullStatus) -> None:
    size = f"{len(pulled.files)} files, {pulled.total / MIB:.0f} MiB"
    out.print(escape(f"{pulled.source} is on {where}: {size}, {pulled.path}"), soft_wrap=True)


def _table(rows: Iterable[tuple[str, CachedStatus]]) -> Grid:
    table = Grid("worker", "source", "format", "MiB", "downloaded", "used by")
    for worker, one in rows:
        day = time.strftime("%Y-%m-%d", time.localtime(one.downloaded_at))
        users = ", ".join(one.used_by)
        if one.format is None:
            users = "unfinished: the same pull or launch goes on with it"
        elif not one.complete:
            users = "damaged: the next launch repairs it"
        size = f"{one.size / MIB:.0f}"
        table.add_row(escape(worker), escape(one.source), one.format or "", size, day, escape(users))
    return table


def add_to(commands: typer.Typer) -> None:
    """Register the commands of this module beside those of the catalog."""
    commands.command("pull")(pull)
    commands.command("cached")(cached)
    commands.command("remove")(remove)
    commands.command("pause")(pause)
    commands.command("resume")(resume)
