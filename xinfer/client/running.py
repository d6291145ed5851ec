"""What may change of a model while it runs: its adapters, and whether it sleeps."""

from typing import Any
from urllib.parse import quote

import msgspec

from xinfer.client.connection import Connection, read


class AdapterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA adapter of a model."""

    name: str
    path: str
    rank: int = 0
    base_model: str = ""
    """What it was made for."""
    replicas: tuple[str, ...] = ()
    """Those that serve it."""
    failures: dict[str, str] = {}
    """replica_id -> why it does not."""


class Running:
    """The part of a Client that changes models without new processes. What is said here holds over every restart."""

    http: Connection

    def adapters(self, model_uid: str) -> list[AdapterStatus]:
        """The LoRA adapters of a model."""
        return read(self.http.call("GET", self.adapters_path(model_uid)), list[AdapterStatus])

    def add_adapter(self, model_uid: str, name: str, path: str) -> None:
        """Serve one more adapter, as a model called ``name``; returns when every running replica does.

        Raises:
            InvalidRequest: it is no adapter of this model, or its engine takes none.
            Conflict: the name is in use.
            LoadFailed: the engine could not load it.
        """
        body = {"name": name, "path": path}
        self.http.call("POST", self.adapters_path(model_uid), body=body, timeout_s=None)

    def remove_adapter(self, model_uid: str, name: str) -> None:
        """Serve an adapter no more."""
        self.http.call("DELETE", f"{self.adapters_path(model_uid)}/{quote(name, safe='')}", timeout_s=None)

    def sleep(self, model_uid: str, level: int = 1) -> None:
        """Have a model give its memory back until it is woken; returns when it has.

        Raises:
            InvalidRequest: its engine cannot.
        """
        self._tell(model_uid, "sleep", {"level": level})

    def wake(self, model_uid: str) -> None:
        """Have a model serve again; returns when it does."""
        self._tell(model_uid, "wake", {})

    def adapters_path(self, model_uid: str) -> str:
        """Where the adapters of a model are."""
        return f"/v1/models/{quote(model_uid, safe='')}/adapters"

    def _tell(self, model_uid: str, verb: str, body: dict[str, Any]) -> None:
        self.http.call("POST", f"/v1/models/{quote(model_uid, safe='')}/{verb}", body=body, timeout_s=None)
