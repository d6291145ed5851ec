"""A DeviceMonitor as a process of its own: for each line on stdin (JSON: MiB that are ours) a snapshot as JSON."""

import sys

import msgspec

from xinfer.worker.inventory.monitor import DeviceMonitor

monitor = DeviceMonitor()
for line in sys.stdin:
    snapshot = monitor.refresh(msgspec.json.decode(line))
    shown = msgspec.to_builtins(snapshot)
    shown["events"] = [{"event": type(event).__name__, **msgspec.to_builtins(event)} for event in snapshot.events]
    print(msgspec.json.encode(shown).decode(), flush=True)
