"""What HAMi gave us of each card. Several places say so: every reading is checked, and the smallest counts."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from xinfer.worker.hami import annotation
from xinfer.worker.hami.limits import EnvironmentLimits, read_limits
from xinfer.worker.hami.preload import Preload, read_preload
from xinfer.worker.hami.region import NoRegion, Region, read_region

DEVICES_VARIABLE = "XINFER_HAMI_DEVICES"
"""The annotation by the downward API, as a variable."""
ANNOTATIONS_VARIABLE = "XINFER_HAMI_ANNOTATIONS"
"""Where the downward API writes the pod's annotations as a file."""
DEFAULT_ANNOTATIONS = Path("/etc/podinfo/annotations")
CONTAINER_VARIABLE = "XINFER_CONTAINER_INDEX"
"""Which container of the pod we are, init containers counted first."""
TOLERANCE_MIB = 1
"""Readings that differ by rounding agree."""
ALL_CORES = 100


@dataclass(frozen=True)
class HamiReading:
    """Everything here that says what HAMi gave us."""

    annotated: dict[str, annotation.Containers]
    """Where it was read -> the devices of all containers of the pod."""
    container: int | None
    limits: EnvironmentLimits
    preload: Preload
    region: Region | None = None
    warnings: tuple[str, ...] = ()

    @property
    def given(self) -> bool:
        """Whether this process runs in a slice by HAMi."""
        return bool(self.annotated) or self.limits.any or self.preload.loaded


@dataclass(frozen=True)
class CardView:
    """What NVML shows of a card, as far as it matters here. ``index`` is its position in NVML's view."""

    uuid: str
    index: int
    total_mib: int
    is_mig: bool = False


@dataclass(frozen=True)
class HamiSlice:
    """What is ours of a card."""

    memory_mib: int
    cores: int
    enforced: bool
    """Processes that pass ``memory_mib`` in sum are refused."""


def read_hami(env: dict[str, str], *, preload: Preload | None = None) -> HamiReading:
    """Read annotation, environment, memory map and shared region; nothing of HAMi is an empty reading."""
    annotated: dict[str, annotation.Containers] = {}
    warnings: list[str] = []
    for source, text in _annotations(env, warnings).items():
        try:
            annotated[source] = annotation.decode(text)
        except ValueError as error:
            warnings.append(f"{source} is not what HAMi writes and is ignored: {error}")
    limits = read_limits(env)
    if env.get("CUDA_OVERSUBSCRIBE", "").lower() == "true":
        warnings.append("HAMi oversubscribes memory here: a slice may be larger than what the card has left")
    return HamiReading(
        annotated=annotated,
        container=_container(env, warnings),
        limits=limits,
        preload=preload or read_preload(env),
        region=_region(env),
        warnings=(*warnings, *limits.warnings),
    )


def _annotations(env: dict[str, str], warnings: list[str]) -> dict[str, str]:
    found = {}
    path = Path(env.get(ANNOTATIONS_VARIABLE) or DEFAULT_ANNOTATIONS)
    try:
        in_file = annotation.from_downward_api(path.read_text())
    except FileNotFoundError:
        in_file = None
    except (OSError, ValueError) as error:
        in_file = None
        warnings.append(f"{path} cannot be read: {error}")
    if in_file:
        found[str(path)] = in_file
    if env.get(DEVICES_VARIABLE):
        found[DEVICES_VARIABLE] = env[DEVICES_VARIABLE]
    return found


def _container(env: dict[str, str], warnings: list[str]) -> int | None:
    text = env.get(CONTAINER_VARIABLE, "")
    if text and not text.isdecimal():
        warnings.append(f"{CONTAINER_VARIABLE}={text} is no number and is ignored")
    return int(text) if text.isdecimal() else None


def _region(env: dict[str, str]) -> Region | None:
    """HAMi-core makes the file with the first process that uses a card, so there may be none yet."""
    path = env.get("CUDA_DEVICE_MEMORY_SHARED_CACHE")
    try:
        return read_region(Path(path)) if path else None
    except NoRegion:
        return None


def hami_slices(reading: HamiReading, cards: Iterable[CardView]) -> tuple[dict[str, HamiSlice], tuple[str, ...]]:
    """Our slice of each card by its UUID (of the physical card), and warnings. Cards that are not ours are left out."""
    cards = list(cards)
    warnings = list(reading.warnings)
    ours = {
        source: _own_devices(source, containers, reading.container, cards, warnings)
        for source, containers in reading.annotated.items()
    }
    given = {uuid for devices in ours.values() for uuid in devices}
    slices = {}
    for card in cards:
        if reading.annotated and card.uuid not in given:
            warnings.append(f"{card.uuid} can be seen here, but HAMi did not give it to this container: it is not used")
            continue
        memory, cores = _readings(card, ours, reading)
        slices[card.uuid], said = _slice(card, memory, cores, reading.preload)
        warnings += said
    missing = given - {card.uuid for card in cards}
    warnings += [f"HAMi gave {uuid}, but NVML does not show it" for uuid in sorted(missing)]
    return slices, tuple(warnings)


def _own_devices(
    source: str,
    containers: annotation.Containers,
    container: int | None,
    cards: list[CardView],
    warnings: list[str],
) -> dict[str, annotation.AllocatedDevice]:
    """The devices of our container by UUID. Where it is not known which one we are: those that fit what we see."""
    seen = {card.uuid for card in cards}
    if container is not None and container < len(containers):
        candidates = [containers[container]]
    else:
        if container is not None:
            warnings.append(
                f"{CONTAINER_VARIABLE}={container}, but {source} lists {len(containers)} containers; ours is guessed"
            )
        candidates = [devices for devices in containers if any(_physical(device.uuid) in seen for device in devices)]
        if len(candidates) > 1:
            warnings.append(
                f"{source} lists {len(candidates)} containers with our cards; the smallest slice counts. "
                f"Set {CONTAINER_VARIABLE}"
            )
    own: dict[str, annotation.AllocatedDevice] = {}
    for device in (device for devices in candidates for device in devices):
        uuid = _physical(device.uuid)
        if uuid not in own or device.memory_mib < own[uuid].memory_mib:
            own[uuid] = device
    return own


def _physical(uuid: str) -> str:
    """The card of an allocation; of a MIG instance older HAMi writes ``GPU-...[template-slot]``."""
    return uuid.partition("[")[0]


def _readings(
    card: CardView, ours: dict[str, dict[str, annotation.AllocatedDevice]], reading: HamiReading
) -> tuple[dict[str, int], dict[str, int]]:
    """Who says how many MiB, and how many percent of the cores, of a card are ours."""
    memory: dict[str, int] = {}
    cores: dict[str, int] = {}
    for source, devices in ours.items():
        if card.uuid in devices:
            memory[source] = devices[card.uuid].memory_mib
            cores[source] = devices[card.uuid].cores or ALL_CORES
    for said, found in ((memory, reading.limits.memory_of(card.index)), (cores, reading.limits.cores_of(card.index))):
        if found is not None:
            said[found[0]] = found[1]
    for live in reading.region.devices if reading.region else ():
        if live.uuid == card.uuid:
            memory["the shared region"] = live.memory_limit >> 20
    return {source: mib for source, mib in memory.items() if mib > 0}, cores


def _slice(
    card: CardView, memory: dict[str, int], cores: dict[str, int], preload: Preload
) -> tuple[HamiSlice, list[str]]:
    """The smallest of all readings, and what people should know of them."""
    limit = min(memory.values(), default=card.total_mib)
    taken = min(limit, card.total_mib)
    share = min(cores.values(), default=ALL_CORES)
    enforced = bool(memory) and preload.loaded and abs(card.total_mib - limit) <= TOLERANCE_MIB
    if preload.loaded or card.total_mib < limit:  # else NVML rightly shows the whole card
        memory = {**memory, "NVML": card.total_mib}
    warnings = []
    if max(memory.values(), default=taken) - taken > TOLERANCE_MIB:
        warnings.append(f"{card.uuid}: {_said(memory, 'MiB')}; {taken} MiB are taken")
    if max(cores.values(), default=share) != share:
        warnings.append(f"{card.uuid}: {_said(cores, '% of its cores')}; {share} % are taken")
    if not enforced and not card.is_mig:
        why = "NVML does not show such a limit" if preload.loaded else preload.reason
        warnings.append(f"{card.uuid}: nothing holds processes to the {taken} MiB that HAMi gave: {why}")
    return HamiSlice(taken, share, enforced), warnings


def _said(readings: dict[str, int], unit: str) -> str:
    return ", ".join(f"{source} says {value} {unit}" for source, value in readings.items())
