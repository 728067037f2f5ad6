"""Progress of a run: a live bar on a terminal, a line every half minute elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.executor import Outcome

_LINE_SECONDS = 30.0


class Progress:
    """Counts units and their weights; told about every outcome."""

    def __init__(self, units: int, weight: float) -> None:
        self.units, self.weight = units, max(weight, 1e-9)
        self.done = self.failed = 0
        self.done_weight = 0.0
        self.started = time.monotonic()

    def __call__(self, outcome: Outcome) -> None:
        """Record one outcome and show it."""
        if outcome.error is None:
            self.done += 1
        else:
            self.failed += 1
        self.done_weight += outcome.unit.weight
        self.show(outcome)

    def show(self, outcome: Outcome) -> None:
        """Display hook."""

    def line(self, outcome: Outcome) -> str:
        """One line: which unit, how many, how fast, how long still."""
        elapsed = time.monotonic() - self.started
        share = self.done_weight / self.weight
        # The first units also pay for loading the model: an estimate from them alone would be wild.
        left = f", about {elapsed * (1 - share) / share:.0f} s left" if share > 0.1 else ""
        failed = f", {self.failed} failed" if self.failed else ""
        return (
            f"{outcome.unit.label}  {self.done}/{self.units}{failed}  {outcome.seconds:.1f} s on "
            f"{outcome.worker}  {elapsed:.0f} s elapsed{left}"
        )


class _Lines(Progress):
    last = 0.0

    def show(self, outcome: Outcome) -> None:
        now = time.monotonic()
        finished = self.done + self.failed == self.units
        if outcome.error is not None or finished or now - self.last >= _LINE_SECONDS:
            self.last = now
            print(self.line(outcome), flush=True)


@contextmanager
def progress(units: int, weight: float) -> Iterator[Progress]:
    """A progress display for `units` units; a bar when standard error is a terminal."""
    if not sys.stderr.isatty():
        yield _Lines(units, weight)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=units)

        class _Bar(Progress):
            def show(self, outcome: Outcome) -> None:
                bar.update(task, advance=1, description=f"{outcome.unit.label} on {outcome.worker}")

        yield _Bar(units, weight)
