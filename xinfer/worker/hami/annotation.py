"""The pod annotation in which HAMi's scheduler writes what it allocated: one list of devices for each container.

``UUID,TYPE,MiB,percent:`` for each device and ``;`` after each container, init containers first.
"""

from dataclasses import dataclass

import msgspec

KEY = "hami.io/vgpu-devices-allocated"


@dataclass(frozen=True)
class AllocatedDevice:
    """A slice of a card: ``cores`` in percent, 0 for no limit. The UUID is that of the physical card."""

    uuid: str
    type: str
    memory_mib: int
    cores: int


Containers = tuple[tuple[AllocatedDevice, ...], ...]


def decode(text: str) -> Containers:
    """The devices of every container; a container without devices has an empty list, so that positions hold.

    Raises:
        ValueError: not such an annotation; names the part that is wrong.
    """
    parts = text.split(";")
    if not parts[-1].strip():  # each container ends with the separator
        parts.pop()
    return tuple(tuple(_device(device) for device in part.split(":") if device.strip()) for part in parts)


def _device(text: str) -> AllocatedDevice:
    fields = [field.strip() for field in text.split(",")]
    if len(fields) < 4 or not fields[0] or not (fields[2].isdecimal() and fields[3].isdecimal()):
        raise ValueError(f"{text!r} is no UUID,TYPE,MiB,percent")
    return AllocatedDevice(fields[0], fields[1], int(fields[2]), int(fields[3]))


def encode(containers: Containers) -> str:
    """The annotation from which ``decode`` reads the same."""
    return "".join(
        "".join(f"{device.uuid},{device.type},{device.memory_mib},{device.cores}:" for device in devices) + ";"
        for devices in containers
    )


def from_downward_api(text: str) -> str | None:
    """The value of ``KEY`` in a file of annotations by the downward API (``key="value"`` lines); None: not there.

    Raises:
        ValueError: the value is not quoted as it should be.
    """
    for line in text.splitlines():
        key, separator, value = line.partition("=")
        if separator and key.strip() == KEY:
            try:
                return msgspec.json.decode(value, type=str)  # what Kubernetes quotes of such a value is JSON too
            except msgspec.DecodeError:
                raise ValueError(f"{value} is no quoted text") from None
    return None
