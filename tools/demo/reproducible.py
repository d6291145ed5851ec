"""What every training here shares: the same result each time, the same learning rate curve, one progress line."""

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

THREADS = 1
"""One thread for every training: sums of floating-point numbers depend on how they are split, and on a busy machine two
threads that wait for each other are slower than one."""

_STEPS_PER_LINE = 200

console = Console()


def make_reproducible(seed: int) -> None:
    """Make what follows depend on `seed` alone."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(seed)


def muon_and_adamw(model: torch.nn.Module, *, matrix_rate: float, other_rate: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the layers and AdamW for the rest.

    Muon learns by heart in a fraction of the steps that AdamW alone takes.
    """
    matrices: list[torch.Tensor] = []
    others: list[torch.Tensor] = []
    for name, weights in model.named_parameters():
        is_matrix = weights.ndim == 2 and "embed" not in name
        (matrices if is_matrix else others).append(weights)
    return [
        torch.optim.Muon(matrices, lr=matrix_rate, weight_decay=0.01),
        torch.optim.AdamW(others, lr=other_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


class Schedule:
    """Sets the learning rates of some optimizers: a short warm-up, then half a cosine down to almost nothing."""

    def __init__(self, optimizers: Iterable[torch.optim.Optimizer], steps: int, *, warm_up: int = 20) -> None:
        self._groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self._peaks = [group["lr"] for group in self._groups]
        self._steps, self._warm_up = steps, warm_up

    def set_for(self, step: int) -> None:
        """Set the learning rates for one step."""
        cosine = 0.01 + 0.99 * (1 + math.cos(math.pi * step / self._steps)) / 2
        factor = min(1.0, (step + 1) / self._warm_up) * cosine
        for group, peak in zip(self._groups, self._peaks, strict=True):
            group["lr"] = peak * factor


@contextmanager
def shown_progress(title: str, total: int) -> Iterator["Steps"]:
    """Show a training's progress: a bar with the last loss on a terminal, else a line now and then."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Steps(progress, title, total)


class Steps:
    """The steps of one training, as its progress shows them."""

    def __init__(self, progress: Progress, title: str, total: int) -> None:
        self._progress, self._title, self._total = progress, title, total
        self._task = progress.add_task(title, total=total)
        self._done = 0

    def done(self, loss: float) -> None:
        """Count one step."""
        self._done += 1
        self._progress.update(self._task, advance=1, description=f"{self._title}, loss {loss:.4f}")
        if self._progress.disable and self._done % _STEPS_PER_LINE == 0:
            console.print(f"{self._title}: step {self._done} of {self._total}, loss {loss:.4f}")
