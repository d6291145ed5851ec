"""Every setting, read from the environment in this one place (prefix ``XINFER_``)."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

DEFAULT_PORT = 9997

Wait = Annotated[float, Meta(ge=0, le=1e9)]
"""Seconds; 0: not at all."""
Period = Annotated[float, Meta(gt=0, le=1e9)]
"""Seconds."""


ALSO_READ_FROM = {
    "hf_endpoint": "HF_ENDPOINT",
    "hf_cache": "HF_HUB_CACHE",
    "ms_endpoint": "MODELSCOPE_ENDPOINT",
    "offline": "HF_HUB_OFFLINE",
}
"""Variables of the hubs' own libraries, which hold where ours are not set."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All that can be set from outside. Times are seconds, sizes bytes unless the name says otherwise."""

    home: Path
    """State on disk: records of processes, logs, the default store."""
    endpoint: str = f"http://127.0.0.1:{DEFAULT_PORT}"
    """Where the command line finds the server."""
    api_key: str = ""
    """What the command line sends as its bearer key; empty: none."""
    model_roots: str = ""
    """The folders that models may be read from by their path, separated by colons; empty: the user's home, the home of
    xinfer, and the directory that the server was started in."""
    database_url: str = ""
    """Any SQLAlchemy async URL; empty: SQLite under ``home``."""
    token_file: Path
    """The cluster token: workers, gateways and replicas prove that they know it. Per user, not per home, so that
    everything one user starts on one machine belongs together with nothing to configure."""
    replica_lease_s: Period = 300.0
    """A replica that no worker claimed for so long ends itself."""
    gateway_lease_s: Period = 600.0
    """A gateway whose supervisor was away for so long ends itself."""
    node_name: str = ""
    """What Kubernetes calls the machine of this worker, for the ``node`` label of metrics; empty: its host name."""
    heartbeat_s: Period = 2.0
    device_period_s: Period = 5.0
    """How often a worker looks at its devices."""
    worker_timeout_s: Period = 10.0
    """A worker not heard of for so long is lost; its replicas are probed and replaced once they are dead too."""
    settle_s: Wait = 10.0
    """How long a restarted supervisor waits for the workers it knew before it starts replacements."""
    drain_timeout_s: Wait = 30.0
    """How long a stopping replica may finish what it has begun."""
    recover_wait_s: Wait = 30.0
    """How long a request waits for a model that was serving and is being brought back."""
    wake_wait_s: Wait = 60.0
    """How long a request for a model that sleeps waits while it is woken; 0: requests do not wake it, and get 503."""
    over_limit: Literal["report", "throttle", "end"] = "report"
    """What becomes of a replica that uses more memory of a device than its slice, where nothing stops it: it is shown
    and logged; it also runs at the lowest priority; or it is ended, and started again. Whichever it is, the kernel
    takes it first when the machine runs out of memory."""
    over_limit_grace_s: Wait = 15.0
    """For so long it may be over its slice, and for three looks at the devices, before any of that happens."""
    over_limit_tolerance_percent: Annotated[int, Meta(ge=0, le=1000)] = 10
    """Of its slice, and never less than 64 MiB: a replica is over its slice beyond that."""
    hami_core: str = ""
    """A libvgpu.so of HAMi-core for machines with one NVIDIA card and no HAMi: replicas are started with it, and it
    refuses them memory beyond their slice. Empty: none."""
    cgroups: Literal["auto", "off"] = "auto"
    """Whether replicas on the CPU are held to their slice by cgroups of their own, where the worker may make them."""
    cpu_affinity: Literal["auto", "off"] = "auto"
    """Whether a replica with a share of at least one whole core of the CPU is kept to as many cores."""
    max_body_bytes: Annotated[int, Meta(ge=1)] = 32 * 1024 * 1024
    media_hosts: str = "public"
    """Where images that requests refer to are fetched from, separated by commas: ``public``, every host with public
    addresses only; the name of a host, with or without a port, wherever it is; ``*``, anything; ``none``, nothing."""
    media_max_images: Annotated[int, Meta(ge=1)] = 32
    """In one request."""
    media_max_mib: Annotated[int, Meta(ge=1)] = 20
    """Of one image file, in MiB."""
    media_max_pixels: Annotated[int, Meta(ge=1)] = 64_000_000
    """Of one image: what it takes in memory once it is decoded."""
    media_max_requests: Annotated[int, Meta(ge=1)] = 32
    """With images, that one replica works on at once; others wait, because pixels take much more memory than files."""
    media_timeout_s: Period = 20.0
    """For fetching one image."""
    max_queued: Annotated[int, Meta(ge=1)] = 2048
    """Requests that one replica holds (running and waiting) before it answers 429."""
    model_src: Literal["auto", "huggingface", "modelscope"] = "auto"
    """Which hub weights are downloaded from; auto: the first one of a model's that can be reached."""
    hf_endpoint: str = "https://huggingface.co"
    """Hugging Face, or a mirror of it. Also read from ``HF_ENDPOINT``."""
    ms_endpoint: str = "https://modelscope.cn"
    """ModelScope. Also read from ``MODELSCOPE_ENDPOINT``."""
    hf_cache: str = ""
    """Where weights of Hugging Face are kept, in the layout of its libraries, which find them there and the other way
    round. Also read from ``HF_HUB_CACHE`` and ``HF_HOME``, else it is where those libraries have it."""
    offline: bool = False
    """Nothing is downloaded. Also read from ``HF_HUB_OFFLINE``."""
    trust_remote_code: bool = False
    """Whether launches may have engines run Python code from the folders of models (trust_remote_code)."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> "Settings":
        """Read ``XINFER_*``. A variable that is empty counts as not set.

        Raises:
            ValueError: a variable has a value of the wrong type or range; names the variable.
        """
        source = os.environ if env is None else env
        values: dict[str, object] = {
            "home": Path(source.get("XINFER_HOME") or Path.home() / ".xinfer").expanduser().absolute(),
            "token_file": Path(source.get("XINFER_TOKEN_FILE") or Path.home() / ".xinfer" / "cluster.token")
            .expanduser()
            .absolute(),
        }
        for field in msgspec.structs.fields(cls):
            raw = source.get(f"XINFER_{field.name.upper()}") or source.get(ALSO_READ_FROM.get(field.name, ""))
            if not raw or field.name in values:
                continue
            try:
                values[field.name] = msgspec.convert(raw, field.type, strict=False)
            except msgspec.ValidationError as error:
                raise ValueError(f"XINFER_{field.name.upper()}={raw!r}: {error}") from None
        values.setdefault("hf_cache", str(_cache_of_hugging_face(source)))
        settings = cls(**values)  # type: ignore[arg-type]
        # Said in so many words, because the processes that inherit it may run in another directory.
        return msgspec.structs.replace(settings, model_roots=os.pathsep.join(map(str, settings.root_folders)))

    def environment(self) -> dict[str, str]:
        """The variables from which ``from_env`` reads the same settings, for child processes."""
        return {f"XINFER_{name.upper()}": str(value) for name, value in msgspec.structs.asdict(self).items()}

    @property
    def root_folders(self) -> tuple[Path, ...]:
        """The folders of ``model_roots``. The whole disk is one only where that says so."""
        if self.model_roots:
            return tuple(Path(folder).expanduser() for folder in self.model_roots.split(os.pathsep) if folder)
        usual = (Path.home(), self.home, Path.cwd())
        return tuple(folder for folder in dict.fromkeys(usual) if folder != Path(folder.anchor))

    @property
    def store_url(self) -> str:
        """The SQLAlchemy URL of the store."""
        return self.database_url or f"sqlite+aiosqlite:///{self.home / 'supervisor' / 'store.sqlite'}"


def _cache_of_hugging_face(source: Mapping[str, str]) -> Path:
    """Where its libraries keep what they download."""
    return (_home_of_hugging_face(source) / "hub").absolute()


def _home_of_hugging_face(source: Mapping[str, str]) -> Path:
    caches = Path(source.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser()
    return Path(source.get("HF_HOME") or caches / "huggingface").expanduser()


def hub_token(hub: str) -> str:
    """The access token for a hub ("hf", "ms"), as its own libraries find it; empty: none.

    It is no setting, so that it is neither logged nor written anywhere.
    """
    if hub == "ms":
        return os.environ.get("MODELSCOPE_API_TOKEN", "")
    file = Path(os.environ.get("HF_TOKEN_PATH") or _home_of_hugging_face(os.environ) / "token").expanduser()
    try:
        return os.environ.get("HF_TOKEN") or file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def cluster_token(settings: Settings) -> str:
    """The shared secret of the cluster: ``XINFER_CLUSTER_TOKEN``, else the token file, which is made at first use.

    Raises:
        OSError: the token file cannot be read or made, or has no token in it.
    """
    token = os.environ.get("XINFER_CLUSTER_TOKEN")
    if token:
        return token
    path = settings.token_file
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    if not path.exists():
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_hex(32) + "\n")
        try:
            os.link(fresh, path)  # atomic, and the first of several processes wins
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    token = path.read_text().strip()
    if not token:  # with it, anybody would be one of us
        raise OSError(f"{path} is empty; remove it, or put the cluster's token in it")
    return token


def has_cluster_token(settings: Settings) -> bool:
    """Whether ``cluster_token`` would find one, rather than make it."""
    return bool(os.environ.get("XINFER_CLUSTER_TOKEN")) or settings.token_file.exists()


def authenticate_actors(settings: Settings) -> None:
    """Put the token where xoscar signs its frames with it. Call before the first actor pool or reference."""
    os.environ["XOSCAR_AUTH_KEY"] = cluster_token(settings)


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our environment plus ``extra`` for a child process, without the actor key (it makes its own from the token)."""
    env = {key: value for key, value in os.environ.items() if key != "XOSCAR_AUTH_KEY"}
    env.update(extra or {})
    return env


DEVICE_VARIABLES = (
    "CUDA_",
    "GPU_CORE_",
    "LD_PRELOAD",
    "NVIDIA_VISIBLE_",
    "PYTORCH_CUDA_ALLOC_CONF",
    "XINFER_CONTAINER_INDEX",
    "XINFER_HAMI_",
    "XINFER_VGPU",
)


def device_environment() -> dict[str, str]:
    """The variables by which CUDA, MPS, HAMi and torch say which devices are for us, and how much of each."""
    return {key: value for key, value in os.environ.items() if key.startswith(DEVICE_VARIABLES)}
