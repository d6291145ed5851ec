"""The demo models on every engine, on a server of its own, for ``xinfer doctor``.

The server is a real one in a temporary home: a request takes the way that it takes everywhere. It sees the engines'
environments of the home that it stands for, and nothing else of it.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from xinfer import plugins
from xinfer.cli.serve import local
from xinfer.client import Client, LaunchProgress
from xinfer.client.client import POLL_S
from xinfer.errors import InvalidRequest, NoCapacity, XinferError
from xinfer.processes import ProcessId, free_port, leave_terminal, log_tail, spawn
from xinfer.settings import Settings, child_environment
from xinfer.worker.diagnosis.golden import Question, Trial, demo_models, judged, tokens_of

HOST = "127.0.0.1"
START_S, LOAD_S, ANSWER_S, SETTLE_S = 60.0, 900.0, 120.0, 30.0
"""The longest that the server may take to start, an engine to load, one answer to come, a model to go."""
END_GRACE_S = 20.0
LEASE_S = 30.0
"""What is left over if the server is killed ends itself after so long."""
MAIN = "from xinfer.cli.doctor_trials import serve_guarded; serve_guarded()"

Show = Callable[[str, str, float], None]
"""(what is tried, the stage, 0..1)"""


def engine_trials(
    settings: Settings, show: Show, *, only: Collection[str] = (), on_cpu: bool = False
) -> Iterator[Trial]:
    """Ask every demo model on every engine that this machine has; yields what came of each.

    Closed or interrupted, it ends everything that it started.

    Args:
        settings: of the installation that it is about.
        show: told how far it is.
        only: the engines to try; empty: all.
        on_cpu: not on an accelerator.

    Raises:
        XinferError: the server does not start; says why.
    """
    with private_server(settings, show) as client:
        trials = _Trials(client, show, {"n_gpu": None} if on_cpu else {})
        (worker,) = client.cluster().workers
        known = plugins.engines()
        for engine in sorted(name for name, offer in worker.engines.items() if offer.ok):
            if (only and engine not in only) or getattr(
                known.get(engine), "fileless", False
            ):  # its models are elsewhere
                continue
            for model, questions in demo_models().items():
                yield trials.run(engine, model, questions)


@contextlib.contextmanager
def private_server(settings: Settings, show: Show) -> Iterator[Client]:
    """A server with one worker for the block.

    Raises:
        XinferError: it does not start; ends with its log.
    """
    folder = Path(tempfile.mkdtemp(prefix="xinfer-doctor-"))
    try:
        with _ending_at_sigterm(), _server_in(folder, settings, show) as client:
            yield client
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _server_in(folder: Path, settings: Settings, show: Show) -> Iterator[Client]:
    home, log, port = folder / "home", folder / "server.log", free_port(HOST)
    home.mkdir()
    if (settings.home / "environments").is_dir():
        (home / "environments").symlink_to(settings.home / "environments")
    own = msgspec.structs.replace(
        settings,
        home=home,
        token_file=folder / "token",
        database_url="",
        endpoint=f"http://{HOST}:{port}",
        api_key="",
        cgroups="off",  # a cgroup that is prepared for replicas stays prepared
        replica_lease_s=LEASE_S,
        gateway_lease_s=LEASE_S,
    )
    guarded, guard = os.pipe()
    argv = [sys.executable, "-P", "-c", MAIN, str(guarded), "--host", HOST, "--port", str(port)]
    child = spawn(argv, env=child_environment(own.environment()), log=log, pass_fds=(guarded,))
    os.close(guarded)
    process = ProcessId.of(child.pid)
    try:
        with Client(own.endpoint) as client:
            show("a server of its own", "starting", 0.0)
            _until(lambda: _has_joined(client), START_S, lambda: child.poll() is None, log)
            yield client
    finally:
        if process is not None:
            _end(process)
        child.wait()
        os.close(guard)


def serve_guarded() -> None:
    """Entry point of the server: ``xinfer-local`` that ends when whoever started it does, in whatever way.

    The first argument is the reading end of a pipe whose other end nobody but the starter has.
    """
    guarded = int(sys.argv.pop(1))

    def wait() -> None:
        os.read(guarded, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
    leave_terminal()
    local()


def _has_joined(client: Client) -> bool:
    with contextlib.suppress(XinferError):
        return any(worker.alive for worker in client.cluster().workers)
    return False


def _until(condition: Callable[[], bool], patience_s: float, alive: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        if not alive() or time.monotonic() > deadline:
            raise XinferError(f"a server of its own does not start:\n{log_tail(log)}")
        time.sleep(POLL_S)


def _end(process: ProcessId) -> None:
    """End the server with all that it started. Ctrl-C must not cut that short: it is bounded anyway."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        asyncio.run(process.end(END_GRACE_S))
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _ending_at_sigterm() -> Iterator[None]:
    """SIGTERM clears away like ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Trials:
    """Launches, asks, terminates: one model on one engine after the other."""

    def __init__(self, client: Client, show: Show, device: Mapping[str, Any]) -> None:
        self._client = client
        self._show = show
        self._device = device

    def run(self, engine: str, model: str, questions: Sequence[Question]) -> Trial:
        """What comes of it; nothing is raised but what the user does."""
        trial = Trial(engine=engine, model=model, outcome="failed")
        uid = f"{model}-{engine}"
        try:
            self._client.launch(model, model_uid=uid, model_engine=engine, **self._device)
        except InvalidRequest as error:
            return replace(trial, outcome="refused", reason=error.message)
        except NoCapacity as error:
            return replace(trial, outcome="no room", reason=error.message)
        except XinferError as error:
            return replace(trial, reason=error.message)
        title, started = f"{model} on {engine}", time.monotonic()
        try:
            last = self._loaded(uid, title)
            if not last.done or last.reason:
                late = f"it was not loaded within {LOAD_S:.0f} s; its last stage was: {last.stage}"
                trial = replace(trial, reason=last.reason or late)
            else:
                where = [piece.device_id for replica in last.replicas for piece in replica.devices]
                trial = replace(trial, load_s=time.monotonic() - started, where=", ".join(where))
                trial = self._asked(uid, title, trial, questions)
            self._terminate(uid)
        except XinferError as error:
            trial = replace(trial, outcome="failed", reason=error.message)
        return trial

    def _loaded(self, uid: str, title: str) -> LaunchProgress:
        """The last progress of a launch: once it is done and the gateway routes to it, or after ``LOAD_S`` seconds."""
        deadline = time.monotonic() + LOAD_S
        for now in self._client.follow(uid):
            self._show(title, now.stage, now.progress)
            if time.monotonic() > deadline:
                break
        while now.done and not now.reason and time.monotonic() < deadline:
            if any(model.id == uid and model.status == "ready" for model in self._client.models()):
                break
            time.sleep(POLL_S)
        return now

    def _asked(self, uid: str, title: str, trial: Trial, questions: Sequence[Question]) -> Trial:
        wrong: list[str] = []
        tokens, generating_s = 0, 0.0
        for number, question in enumerate(questions):
            self._show(title, "asking", number / len(questions))
            body = {"model": uid, **question.body}
            started = time.monotonic()
            try:
                answer = self._client.http.call("POST", question.path, body=body, timeout_s=ANSWER_S)
            except XinferError as error:
                wrong.append(f"{question.name}: {error.message}")
                continue
            if count := tokens_of(answer):
                tokens, generating_s = tokens + count, generating_s + time.monotonic() - started
            if complaint := judged(question, answer):
                wrong.append(complaint)
        return replace(
            trial,
            outcome="wrong" if wrong else "right",
            asked=len(questions),
            wrong=tuple(wrong),
            tokens_per_s=tokens / generating_s if generating_s else 0.0,
        )

    def _terminate(self, uid: str) -> None:
        """And wait until it is gone: until then its memory is not free for the next one."""
        self._client.terminate(uid)
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline and any(worker.replicas for worker in self._client.cluster().workers):
            time.sleep(POLL_S)
