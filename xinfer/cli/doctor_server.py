"""What there is to see of the server that commands talk to, for ``xinfer doctor``."""

import asyncio
import contextlib
import socket
from urllib.parse import urlsplit

import xoscar as xo

from xinfer.actors import Unanswered, answer, prepare
from xinfer.client import Client, ClusterStatus, ModelStatus, Unreachable
from xinfer.client.connection import UnknownAnswer, read
from xinfer.errors import Unauthorized, XinferError
from xinfer.protocol import SUPERVISOR_UID
from xinfer.settings import Settings, has_cluster_token
from xinfer.spec import ReplicaState
from xinfer.worker.diagnosis.server import ServerFacts, Token, WorkerSeen

PATIENCE_S = 5.0
"""A server that works answers at once."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def look_at(client: Client, settings: Settings) -> ServerFacts:
    """Ask the server how it is. Whatever goes wrong is a fact too."""
    endpoint = client.http.base_url
    try:
        cluster = read(client.http.call("GET", "/v1/cluster/info", timeout_s=PATIENCE_S), ClusterStatus)
        address = str(client.http.call("GET", "/v1/address", timeout_s=PATIENCE_S))
    except Unreachable as error:
        if _somebody_listens(endpoint):
            return ServerFacts(endpoint=endpoint, contact="stranger", reason=error.message)
        return ServerFacts(endpoint=endpoint)
    except UnknownAnswer as error:
        return ServerFacts(endpoint=endpoint, contact="stranger", reason=error.message)
    except Unauthorized as error:
        return ServerFacts(endpoint=endpoint, contact="refused", reason=error.message)
    except XinferError as error:
        return ServerFacts(endpoint=endpoint, contact="failed", reason=error.message)
    token, reason = _compare_tokens(settings, endpoint, address)
    return ServerFacts(
        endpoint=endpoint,
        contact="answered",
        version=cluster.version,
        settling=cluster.settling,
        workers=tuple(
            WorkerSeen(name=one.name or one.worker_id, alive=one.alive, last_seen_s_ago=one.last_seen_s_ago)
            for one in cluster.workers
        ),
        failed_models=tuple((model.model_uid, why) for model in cluster.models if (why := _failure(model))),
        token=token,
        token_reason=reason,
    )


def _somebody_listens(endpoint: str) -> bool:
    url = urlsplit(endpoint)
    port = url.port or (443 if url.scheme == "https" else 80)
    with contextlib.suppress(OSError), socket.create_connection((url.hostname or "", port), PATIENCE_S):
        return True
    return False


def _failure(model: ModelStatus) -> str:
    """Why replicas of a model have failed; empty: none has."""
    failed = [replica for replica in model.replicas if replica.state == ReplicaState.FAILED]
    return "\n".join(f"{replica.replica_id}: {replica.reason}" for replica in failed)


def _compare_tokens(settings: Settings, endpoint: str, address: str) -> tuple[Token, str]:
    """Whether the supervisor takes our token, and where that is not known, why."""
    if not has_cluster_token(settings):
        return "unknown", f"there is no token here: {settings.token_file} does not exist"
    host = address.rpartition(":")[0].strip("[]")
    if host in LOOPBACK and urlsplit(endpoint).hostname not in LOOPBACK:
        return "unknown", f"its supervisor listens at {address} only, for workers on its own machine"
    if not _listens(address):
        return "unknown", f"its supervisor, at {address}, cannot be reached from here"
    try:
        asyncio.run(_greet(settings, address))
    except (OSError, Unanswered) as error:
        return "another", f"its supervisor, at {address}, does not answer us ({error})"
    return "same", ""


def _listens(address: str) -> bool:
    return _somebody_listens(f"tcp://{address}")


async def _greet(settings: Settings, address: str) -> None:
    prepare(settings)
    await answer(xo.actor_ref(SUPERVISOR_UID, address=address), PATIENCE_S)
