"""The gateway processes of a supervisor: started, kept alive, and found again after the supervisor's own death.

A gateway is in a process group of its own and keeps routing by its last table while no supervisor runs, so whoever
starts the supervisor again adopts it instead of fighting it for the port.
"""

import asyncio
import errno
import hashlib
import logging
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import msgspec

from xinfer import __version__, plugins
from xinfer.errors import Conflict, InvalidRequest, XinferError
from xinfer.processes import ProcessId, log_tail, read_record, spawn, write_record
from xinfer.settings import Settings, child_environment
from xinfer.telemetry.metrics import SHARED_DIRECTORY_VARIABLE

log = logging.getLogger(__name__)

WATCH_S = 0.25
MAX_EARLY_DEATHS = 3
READY_S = 30.0
END_GRACE_S = 5.0
"""Beyond the time to drain, for closing."""


class GatewayRecord(msgspec.Struct, frozen=True):
    """What a supervisor writes about the process of a gateway, so that the next one finds it again."""

    pid: int
    started: float
    host: str
    port: int
    made_as: str = ""
    """Names the version, options and settings that it runs with; one that would run with others is replaced."""


def gateway_record(home: Path, slot: int) -> Path:
    """The file of a gateway's record."""
    return home / "gateways" / f"{slot}.json"


class GatewayFleet:
    """``count`` gateways on one port."""

    def __init__(self, settings: Settings, host: str, port: int, count: int, policy: str) -> None:
        self._settings = settings
        self._host = host
        self._port = port
        self._count = count
        self._policy = policy
        self._running: dict[int, ProcessId] = {}
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._early_deaths = 0
        self._was_ready = False
        made_as = [__version__, host, port, count, policy, settings.environment()]
        self._made_as = hashlib.sha256(msgspec.json.encode(made_as)).hexdigest()[:16]
        """What makes an adopted gateway as good as a new one: an upgrade or a changed setting must not be lost."""

    @property
    def url(self) -> str:
        """Where this machine reaches them."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        return f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    async def start(self) -> None:
        """Adopt what an earlier supervisor left, end what does not fit, start what is missing.

        Raises:
            InvalidRequest: there is no such routing policy, or this machine has no such address.
            Conflict: another program listens on the port.
        """
        policies = sorted(plugins.policies("xinfer.routing"))
        if self._policy not in policies:
            raise InvalidRequest(f"there is no routing policy {self._policy!r}; there are: {', '.join(policies)}")
        await self._adopt()
        if not self._running:
            require_free(self._host, self._port)
            shutil.rmtree(self._metrics, ignore_errors=True)
        self._metrics.mkdir(parents=True, exist_ok=True)
        self._fill()

    async def ready(self) -> None:
        """Wait until they route requests.

        Raises:
            XinferError: they cannot start; ends with their log.
        """
        async with httpx.AsyncClient(base_url=self.url, timeout=2.0, trust_env=False) as client:
            deadline = asyncio.get_running_loop().time() + READY_S
            while asyncio.get_running_loop().time() < deadline:
                try:
                    if (await client.get("/ready")).status_code in (200, 503):
                        self._was_ready = True
                        return
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
                self._check()
        raise XinferError(f"no gateway answers at {self.url}:\n{log_tail(self._log(0))}")

    async def keep_alive(self) -> None:
        """Start each one again that ends, for ever."""
        while True:
            await asyncio.sleep(WATCH_S)
            self._check()

    async def stop(self) -> None:
        """End all: each finishes what it has begun, within the drain time."""
        await asyncio.gather(*[self._end(process) for process in self._running.values()])
        for child in self._children.values():
            child.wait()
        for slot in self._running:
            gateway_record(self._settings.home, slot).unlink(missing_ok=True)
        self._running.clear()

    async def _adopt(self) -> None:
        misfits: list[tuple[ProcessId, Path]] = []
        for path in sorted((self._settings.home / "gateways").glob("*.json")):
            record = read_record(path, GatewayRecord)
            process = ProcessId(record.pid, record.started) if record else None
            slot = int(path.stem)
            if record is None or process is None or not process.alive():
                path.unlink(missing_ok=True)
            elif record.made_as == self._made_as and slot < self._count:
                log.info("adopted gateway %d (pid %d)", slot, process.pid)
                self._running[slot] = process
            else:
                log.info("ending gateway %d (pid %d), which was started otherwise", slot, process.pid)
                misfits.append((process, path))
        await asyncio.gather(*[self._end(process) for process, _ in misfits])
        for _, path in misfits:
            path.unlink(missing_ok=True)

    async def _end(self, process: ProcessId) -> None:
        await process.end(self._settings.drain_timeout_s + END_GRACE_S)

    def _check(self) -> None:
        """Notice the dead, and replace them."""
        for slot, process in list(self._running.items()):
            child = self._children.get(slot)
            if (child.poll() is None) if child is not None else process.alive():
                continue
            del self._running[slot]
            self._children.pop(slot, None)
            log.warning("gateway %d (pid %d) ended", slot, process.pid)
            if not self._was_ready:
                self._early_deaths += 1
                if self._early_deaths >= MAX_EARLY_DEATHS:
                    raise XinferError(f"the gateways cannot start:\n{log_tail(self._log(slot))}")
        self._fill()

    def _fill(self) -> None:
        for slot in range(self._count):
            if slot not in self._running:
                self._spawn(slot)

    def _spawn(self, slot: int) -> None:
        argv = [sys.executable, "-P", "-m", "xinfer.api", "--host", self._host, "--port", str(self._port)]
        argv += ["--policy", self._policy]
        env = child_environment(self._settings.environment())
        if self._count > 1:
            argv.append("--shared-metrics")
            env[SHARED_DIRECTORY_VARIABLE] = str(self._metrics)
        child = spawn(argv, env=env, log=self._log(slot))
        self._children[slot] = child
        # A child that ended at once leaves no process to identify; the next check sees it by its exit status.
        process = self._running[slot] = ProcessId.of(child.pid) or ProcessId(child.pid, 0.0)
        record = GatewayRecord(process.pid, process.started, self._host, self._port, self._made_as)
        write_record(gateway_record(self._settings.home, slot), record)

    @property
    def _metrics(self) -> Path:
        return self._settings.home / "gateways" / "metrics"

    def _log(self, slot: int) -> Path:
        return self._settings.home / "gateways" / f"{slot}.log"


def require_free(host: str, port: int) -> None:
    """Whether a server can listen there. Without SO_REUSEPORT, or a gateway of another home would go unnoticed.

    Raises:
        InvalidRequest: this machine has no such address, or does not let us use the port.
        Conflict: somebody listens there.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Conflict(f"port {port} of {host} is in use by another program; choose another with -p") from None
            raise InvalidRequest(f"cannot listen on port {port} of {host}: {error.strerror}") from None
