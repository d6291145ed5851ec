"""The part of the SDK for models of one's own, beside the built-in catalog."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from xinfer.client.connection import Connection

PATH = "/v1/model_registrations"


class Registering:
    """Registering models, so that they are launched by their names."""

    http: Connection

    def register_model(self, model_type: str, model: Mapping[str, Any], *, update: bool = False) -> dict[str, Any]:
        """Register a model and return what the server made of it. ``update``: in place of the one of that name.

        ``model`` is an entry of a catalog family, or a custom model of Xinference.

        Raises:
            InvalidRequest: a field is missing or wrong; names it.
            PathNotAllowed: a path leads out of the folders that models may be read from.
            Conflict: the name is registered already.
        """
        body = {"model": dict(model)}
        if update:
            models = model.get("models")
            only = models[0] if isinstance(models, list) and models else model
            name = str(only.get("model_name") or only.get("name") or "")
            return self._call("PUT", f"{PATH}/{model_type}/{quote(name)}", body)
        return self._call("POST", f"{PATH}/{model_type}", body)

    def registrations(self) -> list[dict[str, Any]]:
        """The registered models, with all that was registered."""
        found: list[dict[str, Any]] = self._call("GET", PATH)["data"]
        return found

    def unregister_model(self, model_type: str, model_name: str) -> None:
        """Forget a registration; what was launched from it goes on.

        Raises:
            UnknownModel: there is none of that name and type.
        """
        self._call("DELETE", f"{PATH}/{model_type}/{quote(model_name)}")

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer: dict[str, Any] = self.http.call(method, path, body=body)
        return answer
