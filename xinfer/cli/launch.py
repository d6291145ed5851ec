"""``xinfer launch``: ask for a model, show how it comes up, and say how to call it."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from xinfer.cli.adapter_options import adapter_words
from xinfer.cli.device_options import device_words, with_options_of
from xinfer.cli.dry_run import show_plan
from xinfer.cli.engine_options import ENV_OPTIONS, META_KEY, EngineOptionsCommand
from xinfer.cli.environment_options import environment_words
from xinfer.cli.launch_progress import LeftRunning, follow_launch
from xinfer.cli.options import ApiKey, Endpoint, connect
from xinfer.cli.screen import complain, err, out, remark
from xinfer.cli.snippets import how_to_call
from xinfer.client import Client, Model
from xinfer.client.client import POLL_S

ROUTED_WITHIN_S = 5.0

WHICH = "Which model"
WHERE = "Where it runs"

ModelArgument = Annotated[
    str | None, typer.Argument(help="Name or id (OWNER/NAME) of the model, or its folder (./my-model).")
]
ModelName = Annotated[
    str | None, typer.Option("-n", "--model-name", help="The same, as an option.", rich_help_panel=WHICH)
]
ModelType = Annotated[
    str | None,
    typer.Option(
        "-t", "--model-type", help="LLM, embedding or rerank. Default: what the model is.", rich_help_panel=WHICH
    ),
]
ModelEngine = Annotated[
    str | None,
    typer.Option("-en", "--model-engine", help="Engine. Default: the best that is installed.", rich_help_panel=WHICH),
]
ModelUid = Annotated[
    str | None,
    typer.Option(
        "-u", "--model-uid", help="The name that clients use. Default: the model's name.", rich_help_panel=WHICH
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        "-s",
        "--size",
        "--size-in-billions",
        help="Size, where there are several (7, 0_5, 0.6b, 30b-a3b). Default: the largest for one card of 24 GiB.",
        rich_help_panel=WHICH,
    ),
]
ModelFormat = Annotated[
    str | None,
    typer.Option("-f", "--format", "--model-format", help="Format: safetensors, gguf, mlx.", rich_help_panel=WHICH),
]
Quantization = Annotated[str | None, typer.Option("-q", "--quantization", help="Quantization.", rich_help_panel=WHICH)]
ModelPath = Annotated[
    str | None,
    typer.Option("--model-path", help="Folder or file with the weights, on the workers.", rich_help_panel=WHICH),
]
Replicas = Annotated[int, typer.Option("-r", "--replica", min=1, help="How many copies to run.", rich_help_panel=WHERE)]
Workers = Annotated[
    int | None,
    typer.Option(
        "--n-worker",
        min=1,
        help="On how many workers each replica runs, with as many devices on each.",
        rich_help_panel=WHERE,
    ),
]
WorkerIp = Annotated[str | None, typer.Option("--worker-ip", help="Only on this worker.", rich_help_panel=WHERE)]
Fallback = Annotated[
    str | None,
    typer.Option(
        "--fallback",
        metavar="MODEL_UID",
        help="The model that answers where nothing serves this one, its queues are full, or its endpoint is away.",
        rich_help_panel=WHERE,
    ),
]
Env = Annotated[
    list[str] | None,
    typer.Option(
        *ENV_OPTIONS,
        metavar="K V",
        help="Environment variable for the engine; may be repeated.",
        rich_help_panel=WHERE,
    ),
]
Override = Annotated[
    list[str] | None,
    typer.Option(
        "--override",
        metavar="FIELD=VALUE",
        help="What counts against the files of the model: context_length=8192, abilities=chat,tools. May be repeated.",
        rich_help_panel=WHICH,
    ),
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the model is ready.")]
DryRunJson = Annotated[bool, typer.Option("--json", help="With --dry-run: print the server's answer as JSON.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Launch nothing: say where it would go, or why it fits nowhere.")
]


@with_options_of(adapter_words, into="adapters")
@with_options_of(environment_words, into="environment")
@with_options_of(device_words, into="devices")
def launch(
    ctx: typer.Context,
    model: ModelArgument = None,
    *,
    model_name: ModelName = None,
    model_type: ModelType = None,
    model_engine: ModelEngine = None,
    model_uid: ModelUid = None,
    size: Size = None,
    model_format: ModelFormat = None,
    quantization: Quantization = None,
    model_path: ModelPath = None,
    replica: Replicas = 1,
    n_worker: Workers = None,
    worker_ip: WorkerIp = None,
    env: Env = None,
    override: Override = None,
    fallback: Fallback = None,
    devices: dict[str, Any],
    environment: dict[str, Any],
    adapters: dict[str, Any],
    wait: Wait = True,
    dry_run: DryRun = False,
    as_json: DryRunJson = False,
    endpoint: Endpoint = None,
    api_key: ApiKey = None,
) -> None:
    """Launch a model. Any other --option goes to the engine.

    [dim]Examples:[/]

    xinfer launch demo-chat --model-uid my-chat --replica 2

    xinfer launch ./my-model --model-type LLM

    xinfer launch demo-chat --gpumem-percentage 10 --gpucores 20 --replica 5   [dim]# slices of a device[/]

    xinfer launch echo --rate 20   [dim]# an option of the engine: 20 tokens per second[/]

    Ctrl-C asks whether to cancel the launch; a second one leaves it running in the background.
    """
    if as_json and not dry_run:
        raise typer.BadParameter("it belongs to --dry-run", param_hint="--json")
    name = model_name or model
    if not name or (model and model_name and model != model_name):
        complain("which model? Give one name: xinfer launch MODEL", "xinfer launch --help shows examples.")
        raise typer.Exit(2)
    body = launch_body(
        name,
        model_path=model_path,
        model_type=model_type,
        model_engine=model_engine,
        model_uid=model_uid,
        model_size_in_billions=int(size) if size and size.isdigit() else size,
        model_format=model_format,
        quantization=quantization,
        replica=replica,
        n_worker=n_worker,
        worker_ip=worker_ip,
        envs=_pairs(env, "--env"),
        overrides=_pairs(override, "--override"),
        fallback=fallback,
        **devices,
        **environment,
        **adapters,
    )
    body = {**ctx.meta[META_KEY], **body}
    with connect(endpoint, api_key) as client:
        if dry_run:
            show_plan(client, body, as_json=as_json)
            return
        launched = client.launched(**body)
        uid = launched.model_uid
        remark(launched.picked, launched.warnings)
        if wait:
            _wait(client, uid)
        else:
            out.print(f"{uid} is being launched. See how far it is: xinfer status")


def launch_body(name: str, *, model_path: str | None, **words: Any) -> dict[str, Any]:
    """The launch body: only what was asked for. A name that is a path becomes a model_path and the folder's name."""
    if model_path is None and name.startswith(("/", "./", "../", "~", ".\\")):
        path = Path(name).expanduser().absolute().resolve()
        name, model_path = path.name, str(path)
    given = {"model_name": name, "model_path": model_path, **words}
    return {key: value for key, value in given.items() if value is not None or key == "n_gpu"}


def _pairs(pairs: list[str] | None, param_hint: str) -> dict[str, str] | None:
    if not pairs:
        return None
    wrong = next((pair for pair in pairs if not pair.partition("=")[0] or "=" not in pair), None)
    if wrong is not None:
        raise typer.BadParameter(f"{wrong!r} has no value: it should be KEY VALUE or KEY=VALUE", param_hint=param_hint)
    return dict(pair.split("=", 1) for pair in pairs)


def _wait(client: Client, uid: str) -> None:
    try:
        last = follow_launch(client, uid)
    except LeftRunning as left:
        err.print(str(left))
        raise typer.Exit(1) from None
    if last.reason:
        complain(f"{uid} could not be launched.")
        err.print(Text(last.reason), soft_wrap=True)
        err.print(f"Launch it again once that is mended, or remove it: xinfer terminate {uid}", style="dim")
        raise typer.Exit(1)
    out.print(Text(f"{uid} is ready.", style="bold green"))
    if model := _routed(client, uid):
        out.print(Text(how_to_call(client.http.base_url, model)), soft_wrap=True)  # to be copied as it stands


def _routed(client: Client, uid: str) -> Model | None:
    """The model, once the gateway that we talk to can route to it: a moment after the supervisor says ready."""
    deadline = time.monotonic() + ROUTED_WITHIN_S
    while True:
        model = next((model for model in client.models() if model.id == uid), None)
        if (model and model.status == "ready") or time.monotonic() > deadline:
            return model
        time.sleep(POLL_S)


def add_to(app: typer.Typer) -> None:
    """Register the command of this module."""
    app.command("launch", cls=EngineOptionsCommand)(launch)
