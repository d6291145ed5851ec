"""A fake CUDA driver with one card, a stand-in for HAMi-core, and a program that uses the card, all in C.

cuda = compile_cuda(folder)                                # once
with Tenant(cuda, env=grant(...).env) as tenant:
    assert tenant.allocate(500) == SUCCESS
"""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from fakes.nvml.library import compile_shared

SOURCES = Path(__file__).parent
LIBRARY = "libcuda.so.1"
SUCCESS, OUT_OF_MEMORY = 0, 2
"""Results of CUDA's driver."""


@dataclass(frozen=True)
class Cuda:
    """What was built."""

    folder: Path
    """Of the driver."""
    vgpu: Path
    """The library to preload."""
    tenant: Path
    """The program."""


def compile_cuda(folder: Path) -> Cuda:
    """Build all three into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    driver, vgpu, tenant = folder / LIBRARY, folder / "libvgpu.so", folder / "tenant"
    compile_shared(SOURCES / "fake_cuda.c", driver, f"-Wl,-soname,{LIBRARY}")
    compile_shared(SOURCES / "fake_vgpu.c", vgpu, "-ldl")
    command = ["gcc", "-Wall", "-Wextra", "-Werror", SOURCES / "tenant.c", driver, "-o", tenant]
    subprocess.run(command, check=True, capture_output=True)
    return Cuda(folder, vgpu, tenant)


class Tenant:
    """A running program that uses the card. It ends with the ``with`` block."""

    def __init__(self, cuda: Cuda, env: Mapping[str, str], *, uuid: str, total_mib: int = 16384) -> None:
        fakes = {
            "LD_LIBRARY_PATH": str(cuda.folder),
            "FAKE_VGPU_UUID": uuid,
            "FAKE_CUDA_TOTAL_MIB": str(total_mib),
        }
        self._process = subprocess.Popen(
            [cuda.tenant],
            env={**os.environ, **env, **fakes},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Of the program, and of its process group."""
        return self._process.pid

    def allocate(self, mib: int) -> int:
        """Ask the driver for memory; its result."""
        return int(self._ask(f"alloc {mib}"))

    def free(self) -> int:
        """Give the latest block back; the driver's result."""
        return int(self._ask("free"))

    def view_mib(self) -> tuple[int, int]:
        """What it sees as free and as the total, in MiB."""
        free, total = self._ask("info").split()
        return int(free), int(total)

    def kill(self) -> None:
        """``kill -9``: it has no time to say goodbye to anybody."""
        self._process.kill()
        self._process.wait()

    def _ask(self, line: str) -> str:
        assert self._process.stdin
        assert self._process.stdout
        print(line, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, f"the tenant ended with status {self._process.wait()}"
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:  # closes its pipes, upon which it ends, and waits for it
            pass
