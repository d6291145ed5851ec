"""A fake NVIDIA driver for tests: a real shared library in C, and the file that tells it which cards there are.

    library = compile_nvml(folder)                      # once
    driver = FakeDriver(folder / "cards")
    driver.show(FakeCard("GPU-a", used=512), FakeCard("GPU-b"))
    subprocess.run(..., env={**driver.environment(library)})

The process meets the cards through pynvml, and every later ``show`` while it runs.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("fake_nvml.c")
LIBRARY = "libnvidia-ml.so.1"


def compile_nvml(folder: Path, *, without: tuple[str, ...] = ()) -> Path:
    """Build the library into a folder of its own and return that; ``without`` hides symbols that older drivers lack."""
    folder.mkdir(parents=True, exist_ok=True)
    hidden = folder / "hidden.map"
    hidden.write_text("{ local: " + "".join(f"{symbol}; " for symbol in ("none_at_all", *without)) + "};\n")
    compile_shared(SOURCE, folder / LIBRARY, f"-Wl,-soname,{LIBRARY}", f"-Wl,--version-script,{hidden}")
    return folder


def compile_shared(source: Path, target: Path, *options: str) -> None:
    """Compile one C file to a shared library."""
    command = ["gcc", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", *options, "-o", target, source]
    subprocess.run(command, check=True, capture_output=True)


@dataclass(frozen=True)
class FakeCard:
    """A card as the fake shows it; ``more``: any other lines that fake_nvml.c describes. Memory in MiB."""

    uuid: str
    total: int = 23034
    used: int = 0
    name: str = "NVIDIA L4"
    more: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        return [f"card {self.uuid}", f"name {self.name}", f"total {self.total}", f"used {self.used}", *self.more]


class FakeDriver:
    """The file behind ``FAKE_NVML_CONFIG``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.show()

    def show(self, *cards: FakeCard, more: tuple[str, ...] = ()) -> None:
        """From now on there are these cards, in this order; ``more``: lines about no card (init, topology)."""
        lines = ["driver 550.54.15", "cuda 12040", *more, *(line for card in cards for line in card.lines())]
        fresh = self.path.with_suffix(".new")
        fresh.write_text("\n".join(lines) + "\n")
        fresh.replace(self.path)  # nobody reads half a file

    def environment(self, library: Path) -> dict[str, str]:
        """What a process needs to find the library and this file."""
        return {"LD_LIBRARY_PATH": str(library), "FAKE_NVML_CONFIG": str(self.path)}
