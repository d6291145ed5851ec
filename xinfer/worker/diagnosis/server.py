"""The server that the command line would talk to."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from xinfer.worker.diagnosis.findings import Finding

GROUP = "server"
Contact = Literal["nobody", "stranger", "refused", "failed", "answered"]
"""Nobody listens there; something else does; a server that wants a key; one that cannot answer; one that does."""
Token = Literal["same", "another", "unknown"]


@dataclass(frozen=True, kw_only=True)
class WorkerSeen:
    """A worker as its supervisor lists it."""

    name: str
    alive: bool = True
    last_seen_s_ago: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ServerFacts:
    """What was seen of a server."""

    endpoint: str
    contact: Contact = "nobody"
    reason: str = ""
    """What came instead of an answer."""
    version: str = ""
    settling: bool = False
    workers: tuple[WorkerSeen, ...] = ()
    failed_models: tuple[tuple[str, str], ...] = ()
    """(model_uid, why) of those with replicas that have failed."""
    token: Token = "unknown"  # noqa: S105  how two tokens compare
    """Whether our cluster token is the server's."""
    token_reason: str = ""


def server_findings(server: ServerFacts, own_version: str) -> Iterator[Finding]:
    """Whether it answers, is of our version, and has what it needs."""
    if server.contact != "answered":
        yield _no_answer(server)
        return
    same = server.version == own_version
    yield Finding(
        group=GROUP,
        code="version",
        level="ok" if same else "warning",
        what=f"xinfer {server.version} serves at {server.endpoint}{'' if same else f'; this command is {own_version}'}",
        advice="" if same else "Restart the server, or use the command of its version.",
    )
    yield _token(server)
    yield from _workers(server)
    for uid, reason in server.failed_models:
        yield Finding(
            group=GROUP,
            code="model",
            level="problem",
            subject=uid,
            what=f"{uid} has failed",
            why=tuple(reason.splitlines()),
            advice=f"Mend that and launch it again, or remove it: xinfer terminate {uid}",
        )


def _no_answer(server: ServerFacts) -> Finding:
    what, advice = {
        "nobody": (f"no server at {server.endpoint}", "Start one with xinfer-local, or say where it is with -e URL."),
        "stranger": (
            f"another program answers at {server.endpoint}",
            "Start xinfer-local on another port (-p), and set XINFER_ENDPOINT to that.",
        ),
        "refused": (
            f"the server at {server.endpoint} does not let us look",
            "Set XINFER_API_KEY, or give -ak KEY.",
        ),
    }.get(
        server.contact,
        (f"the server at {server.endpoint} cannot say how it is", "See its log; started again, it finds what runs."),
    )
    return Finding(
        group=GROUP,
        code="contact",
        level="note" if server.contact == "nobody" else "problem",
        what=what,
        why=(server.reason,) if server.reason else (),
        advice=advice,
    )


def _token(server: ServerFacts) -> Finding:
    if server.token == "same":  # noqa: S105  no secret
        return Finding(group=GROUP, code="token", what="our cluster token is the server's: a worker here could join")
    if server.token == "another":  # noqa: S105  no secret
        return Finding(
            group=GROUP,
            code="token",
            level="warning",
            what="our cluster token is not the server's: a worker started here could not join",
            why=(server.token_reason,) if server.token_reason else (),
            advice="Copy the server's token file, or set XINFER_CLUSTER_TOKEN to the same on both.",
        )
    return Finding(
        group=GROUP,
        code="token",
        level="note",
        what="whether our cluster token is the server's is not known",
        why=(server.token_reason,) if server.token_reason else (),
    )


def _workers(server: ServerFacts) -> Iterator[Finding]:
    if server.settling:
        yield Finding(
            group=GROUP, code="settling", level="note", what="the supervisor waits for the workers that it knew"
        )
    if not server.workers:
        yield Finding(
            group=GROUP,
            code="worker",
            level="problem",
            what="no worker has joined: nothing can be launched",
            advice=f"On a machine that is to run models: xinfer-worker -e {server.endpoint}",
        )
    for worker in server.workers:
        gone = f"not heard of for {worker.last_seen_s_ago:.0f} s"
        yield Finding(
            group=GROUP,
            code="worker",
            level="ok" if worker.alive else "problem",
            subject=worker.name,
            what=f"worker {worker.name}: {'alive' if worker.alive else gone}",
            advice="" if worker.alive else "See whether its process and its machine still run, and start it again.",
        )
