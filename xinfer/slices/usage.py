"""What a device reports, set against what is reserved on it."""

from collections.abc import Mapping

from xinfer.devices import DeviceUse


def used_by(use: DeviceUse, reserved_mib: Mapping[str, int]) -> dict[str, int]:
    """MiB that each replica uses of a device, of those that have something reserved there.

    Where nobody can tell processes apart, what is used is taken to be theirs, each filling what it reserved: a
    stranger is then seen only by what goes beyond that.
    """
    if use.by_replica:
        return {replica_id: use.by_replica.get(replica_id, 0) for replica_id in reserved_mib}
    left = use.used_mib or 0
    used = {}
    for replica_id, mib in sorted(reserved_mib.items()):
        used[replica_id] = min(mib, left)
        left -= used[replica_id]
    return used
