"""The SDK: what a program needs to launch and manage models."""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, Self, TypeAlias
from urllib.parse import quote

from xinfer.client.answers import (
    Chunk,
    ClusterStatus,
    Delta,
    Launched,
    LaunchPlan,
    LaunchProgress,
    Model,
    ModelEstimate,
    ModelList,
    ModelStatus,
)
from xinfer.client.connection import Connection, read
from xinfer.client.registering import Registering
from xinfer.client.running import Running
from xinfer.client.upkeep import Upkeep
from xinfer.client.weights import Weights

Answer: TypeAlias = Generator[Delta, None, None]
"""A streamed answer. Closing it stops the work of the model on it."""

POLL_S = 0.25
"""Between two looks at the progress of a launch, in seconds."""


class Launches:
    """The part of a Client that brings models up."""

    http: Connection

    def launch(self, model_name: str, *, wait: bool = False, **body: Any) -> str:
        """Launch a model and return its model_uid; with ``wait`` only once it is ready.

        ``body`` are the words of the launch body (``model_engine``, ``replica``, ``gpumem_percentage``, ``gpucores``,
        ...); any other keyword goes to the engine.

        Raises:
            InvalidRequest: no such model, engine or option; as InvalidSliceRequest: such a slice cannot be meant.
            Conflict: the model_uid is in use; as NoCapacity: it fits on no device.
            LoadFailed: the engine could not load it (only with ``wait``).
        """
        return self.launched(model_name, wait=wait, **body).model_uid

    def launched(self, model_name: str, *, wait: bool = False, **body: Any) -> Launched:
        """Launch a model as ``launch`` does, and return what was picked for it, and why, beside its model_uid."""
        answer = self.http.call(
            "POST",
            "/v1/models",
            params={"wait_ready": "true" if wait else "false"},
            body={"model_name": model_name, **body},
            timeout_s=None,
        )
        return read(answer, Launched)

    def explain(self, model_name: str, **body: Any) -> LaunchPlan:
        """What would become of such a launch: where it would go, or why it fits nowhere. Nothing is launched.

        Raises:
            InvalidRequest: as ``launch`` does.
            Conflict: the model_uid is in use.
        """
        answer = self.http.call("POST", "/v1/placements:explain", body={"model_name": model_name, **body})
        return read(answer, LaunchPlan)

    def estimate(self, model_name: str, **body: Any) -> ModelEstimate:
        """How much memory such a launch would need, by parts, and where it fits. Nothing is launched.

        Raises:
            InvalidRequest: as ``launch`` does.
        """
        answer = self.http.call("POST", "/v1/estimates", body={"model_name": model_name, **body})
        return read(answer, ModelEstimate)

    def progress(self, model_uid: str) -> LaunchProgress:
        """How far a launch is."""
        return read(self.http.call("GET", f"{_of(model_uid)}/progress"), LaunchProgress)

    def follow(self, model_uid: str) -> Iterator[LaunchProgress]:
        """The progress of a launch, again and again until it is done; the last one says how it ended."""
        while not (now := self.progress(model_uid)).done:
            yield now
            time.sleep(POLL_S)
        yield now

    def cancel(self, model_uid: str) -> None:
        """Cancel a launch that is under way."""
        self.http.call("POST", f"{_of(model_uid)}/cancel")


class Client(Launches, Registering, Running, Upkeep, Weights):
    """Launch and manage models on an xinfer server.

    Every method raises the exceptions of ``xinfer.errors`` with the server's own message, and ``Unreachable`` when
    nothing answers. ``http`` is the connection itself, for routes without a method here.

    Example:
        >>> with Client("http://127.0.0.1:9997") as client:
        ...     uid = client.launch("demo-chat", wait=True)
    """

    def __init__(self, base_url: str, api_key: str | None = None) -> None:
        self.http = Connection(base_url, api_key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def models(self) -> list[Model]:
        """The models that a client can ask for."""
        return list(read(self.http.call("GET", "/v1/models"), ModelList).data)

    def terminate(self, model_uid: str) -> None:
        """Stop a model: its replicas finish what they have begun, then end."""
        self.http.call("DELETE", _of(model_uid))

    def instances(self, model_name: str | None = None, model_uid: str | None = None) -> list[ModelStatus]:
        """Deployed models with their replicas, all or those of one name or uid."""
        asked = {"model_name": model_name, "model_uid": model_uid}
        params = {key: value for key, value in asked.items() if value}
        return read(self.http.call("GET", "/v1/models/instances", params=params), list[ModelStatus])

    def add_replicas(self, model_uid: str, count: int = 1) -> None:
        """Start ``count`` more replicas."""
        self.http.call("POST", f"{_of(model_uid)}/replicas", body={"replica": count})

    def remove_replica(self, model_uid: str, replica_id: str) -> None:
        """Drain and stop one replica."""
        self.http.call("DELETE", f"{_of(model_uid)}/replicas/{quote(replica_id, safe='')}")

    def cluster(self) -> ClusterStatus:
        """Workers with their devices, and models with their replicas."""
        return read(self.http.call("GET", "/v1/cluster/info"), ClusterStatus)

    def chat(self, model_uid: str, messages: Sequence[Mapping[str, Any]], **parameters: Any) -> Answer:
        """Stream the answer to a conversation. Closing the iterator stops the model's work on it."""
        body = {"model": model_uid, "messages": list(messages), "stream": True, **parameters}
        for chunk in self.http.events("/v1/chat/completions", body, Chunk):
            for choice in chunk.choices:
                yield Delta(
                    text=choice.delta.content or "",
                    reasoning=choice.delta.reasoning_content or "",
                    finish_reason=choice.finish_reason,
                )

    def complete(self, model_uid: str, prompt: str, **parameters: Any) -> Answer:
        """Stream the continuation of a text. Closing the iterator stops the model's work on it."""
        body = {"model": model_uid, "prompt": prompt, "stream": True, **parameters}
        for chunk in self.http.events("/v1/completions", body, Chunk):
            for choice in chunk.choices:
                yield Delta(text=choice.text, finish_reason=choice.finish_reason)


def _of(model_uid: str) -> str:
    return f"/v1/models/{quote(model_uid, safe='')}"
