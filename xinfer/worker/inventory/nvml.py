"""NVIDIA cards through NVML: opened when the driver is there, opened again after a card was lost."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from xinfer.worker.inventory import xids
from xinfer.worker.inventory.base import MIB
from xinfer.worker.inventory.calls import NvmlAway, NvmlCalls
from xinfer.worker.inventory.cards import Card, Fault, Memory, NvmlReading, checked_memory
from xinfer.worker.inventory.links import LinkReader

PCI_DEVICES = Path("/sys/bus/pci/devices")


class Nvml:
    """The cards of this machine. Not for several threads at once."""

    def __init__(self, pci_devices: Path = PCI_DEVICES) -> None:
        self._pci_devices = pci_devices
        self._session: _Session | None = None
        self._known: set[str] = set()
        self._fatal_xids: dict[str, int] = {}

    def read(self) -> NvmlReading:
        """Every card as it is now. Where there is none, the reading says why; nothing is raised."""
        try:
            session = self._session = self._session or _Session(NvmlCalls(), self._pci_devices, self._fatal_xids)
            reading = session.read()
        except NvmlAway as away:
            self.close()
            return NvmlReading(reason=str(away))
        there = {card.parent_uuid for card in reading.cards if not (card.fault and card.fault.lost)}
        self._known |= there
        gone = self._known - there
        for uuid in gone:
            self._fatal_xids.pop(uuid, None)  # it can only return from a reset
        if session.stale or gone or not there:
            self.close()
        return reading

    def close(self) -> None:
        """Let go of the driver; the next reading opens it again."""
        if self._session is not None:
            self._session.close()
            self._session = None


class _Session:
    """NVML between one initialisation and the next.

    Raises:
        NvmlAway: NVML does not start.
    """

    def __init__(self, calls: NvmlCalls, pci_devices: Path, fatal_xids: dict[str, int]) -> None:
        calls.start()
        self._calls = calls
        self._pci_devices = pci_devices
        self._last: dict[int, list[Card]] = {}
        self._warnings: list[str] = []
        self._links = LinkReader(calls)
        self._fatal_xids = fatal_xids
        self._xids = xids.XidListener(calls, fatal_xids)
        self.stale = False
        """A card is lost: only a new session sees one that returns, or comes."""

    def read(self) -> NvmlReading:
        """All cards, warnings and versions.

        Raises:
            NvmlAway: the driver went away.
        """
        api = self._calls.api
        self._warnings = []
        self._xids.collect()
        try:
            count = int(api.nvmlDeviceGetCount())
        except self._calls.errors as error:
            raise NvmlAway(f"NVML does not count its cards: {error}") from error
        for index in range(count):
            self._last[index] = self._at(index)
        cards = self._with_pair_scores([card for found in self._last.values() for card in found])
        cuda = int(self._calls.ask(0, api.nvmlSystemGetCudaDriverVersion_v2))
        return NvmlReading(
            cards=tuple(cards),
            warnings=tuple(self._warnings),
            reason="" if cards else "the NVIDIA driver is loaded, but shows no card that can be used",
            driver=str(self._calls.ask("", api.nvmlSystemGetDriverVersion)),
            cuda_version=f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else "",
        )

    def close(self) -> None:
        """End the session; a driver that is gone has ended it already."""
        self._xids.close()
        with contextlib.suppress(*self._calls.errors):
            self._calls.api.nvmlShutdown()

    def _at(self, index: int) -> list[Card]:
        """The card at an index, or its MIG instances; as they were last, with the fault, where they cannot be read."""
        try:
            return self._read(self._calls.api.nvmlDeviceGetHandleByIndex(index), index)
        except self._calls.errors as error:
            lost = self._calls.is_lost(error)
            self.stale |= lost
            fault = Fault(f"NVML: {error}", lost=lost, certain=lost)
        except UnicodeDecodeError:
            fault = Fault("its name or UUID is no text", certain=False)
        return self._as_before(index, fault)

    def _as_before(self, index: int, fault: Fault) -> list[Card]:
        before = self._last.get(index, [])
        if not before:
            self._warnings.append(f"card {index} is left out: {fault.reason}")
        return [replace(card, fault=fault) for card in before]

    def _read(self, handle: Any, index: int) -> list[Card]:
        ask, api = self._calls.ask, self._calls.api
        uuid = str(api.nvmlDeviceGetUUID(handle))
        memory = self._memory(handle)
        if memory is None:
            return self._as_before(index, Fault("NVML reports no memory for it that makes sense", certain=False))
        card = Card(
            index=index,
            uuid=uuid,
            parent_uuid=uuid,
            name=str(api.nvmlDeviceGetName(handle)),
            memory=memory,
            compute_capability=".".join(map(str, ask((), api.nvmlDeviceGetCudaComputeCapability, handle))),
            numa=self._numa(handle),
            processes=self._processes(handle),
            fault=self._fault(handle, uuid),
        )
        mig_enabled, _ = ask((0, 0), api.nvmlDeviceGetMigMode, handle)
        return self._instances(handle, card) if mig_enabled else [card]

    def _instances(self, handle: Any, card: Card) -> list[Card]:
        """The MIG instances of a card; the card itself cannot be used while it is divided."""
        ask, api = self._calls.ask, self._calls.api
        found = []
        for position in range(int(ask(0, api.nvmlDeviceGetMaxMigDeviceCount, handle))):
            instance = ask(None, api.nvmlDeviceGetMigDeviceHandleByIndex, handle, position)
            memory = None if instance is None else self._memory(instance)
            if memory is None:  # places that no instance takes
                continue
            found.append(
                replace(
                    card,
                    uuid=str(api.nvmlDeviceGetUUID(instance)),
                    name=str(api.nvmlDeviceGetName(instance)),
                    memory=memory,
                    processes=self._processes(instance),
                )
            )
        if not found:
            self._warnings.append(f"{card.uuid} ({card.name}) is in MIG mode without instances: nothing can run on it")
        return found

    def _memory(self, handle: Any) -> Memory | None:
        ask, api = self._calls.ask, self._calls.api
        info = ask(None, api.nvmlDeviceGetMemoryInfo, handle, api.nvmlMemory_v2)
        if info is not None:
            return checked_memory(info.total, info.used, info.free, info.reserved)
        info = ask(None, api.nvmlDeviceGetMemoryInfo, handle)  # drivers before 510
        return None if info is None else checked_memory(info.total, info.used, info.free)

    def _processes(self, handle: Any) -> dict[int, int]:
        found = self._calls.ask([], self._calls.api.nvmlDeviceGetComputeRunningProcesses, handle)
        return {int(process.pid): (process.usedGpuMemory or 0) // MIB for process in found}

    def _numa(self, handle: Any) -> int:
        """The node of its PCI slot. NVML's own answer is the node that the card's memory is, where it is one."""
        bus = self._calls.bus(handle)
        with contextlib.suppress(OSError, ValueError):  # sysfs has four digits of the domain, NVML eight
            return int((self._pci_devices / bus.removeprefix("0000") / "numa_node").read_text())
        return int(self._calls.ask(-1, self._calls.api.nvmlDeviceGetNumaNodeId, handle))

    def _fault(self, handle: Any, uuid: str) -> Fault | None:
        """What makes a card that answers unusable; what is only worth knowing becomes a warning."""
        ask, api = self._calls.ask, self._calls.api
        if uuid in self._fatal_xids:
            return Fault(f"{xids.described(self._fatal_xids[uuid])}; it needs a reset")
        _, _, pending, failed = ask((0, 0, 0, 0), api.nvmlDeviceGetRemappedRows, handle)
        if failed:
            return Fault("a bad row of its memory could not be remapped; it needs service")
        if pending:
            self._warnings.append(f"{uuid} has a bad memory row, which a reset would remap")
        uncorrected = (api.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, api.NVML_VOLATILE_ECC)
        errors = ask(0, api.nvmlDeviceGetTotalEccErrors, handle, *uncorrected)
        if errors:
            self._warnings.append(f"{uuid} had {errors} uncorrectable memory errors since its driver was loaded")
        return None

    def _with_pair_scores(self, cards: list[Card]) -> list[Card]:
        """Whole cards with the scores of their pairs: MIG instances cannot talk to one another."""
        whole = {card.uuid: card.index for card in cards if not card.is_mig and card.fault is None}
        try:
            api = self._calls.api
            handles = {uuid: api.nvmlDeviceGetHandleByIndex(index) for uuid, index in whole.items()}
            scores = self._links.scores(handles) if len(handles) > 1 else {}
        except self._calls.errors:  # lost a moment ago; the next reading says so
            return cards
        return [replace(card, pair_scores=scores.get(card.uuid, {})) for card in cards]
