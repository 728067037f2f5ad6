"""What a run shows while it goes: one live table on a terminal, a line every half minute in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workflows.execution.watch.status_file import progress_text
from workflows.text import duration_text

if TYPE_CHECKING:
    from rich.table import Table

LINE_S = 30.0
Snapshot = Callable[[], dict[str, Any]]


class Lines:
    """Lines for a batch log: one every `LINE_S` seconds, and failures and losses when they happen."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._last = time.monotonic()
        self._shown = ""

    def start(self) -> None:
        """Nothing is shown before the first half minute."""

    def tick(self) -> None:
        """Print the line if it is due."""
        if time.monotonic() - self._last >= LINE_S:
            self._last = time.monotonic()
            self._print()

    def say(self, text: str) -> None:
        """Print something at once."""
        print(text, flush=True)

    def stop(self) -> None:
        """Print the last line, unless it was shown."""
        if self._snapshot()["units"]["units"]:
            self._print()

    def _print(self) -> None:
        text = progress_text(self._snapshot())
        if text != self._shown:
            self._shown = text
            print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


class LiveTable:
    """The table on a terminal, on standard error; it is redrawn by its own thread."""

    def __init__(self, snapshot: Snapshot) -> None:
        from rich.console import Console
        from rich.live import Live

        self._snapshot = snapshot
        self._live = Live(
            console=Console(stderr=True),
            get_renderable=lambda: table(self._snapshot()),
            refresh_per_second=2,
            transient=False,
        )

    def start(self) -> None:
        """Begin to draw."""
        self._live.start()

    def tick(self) -> None:
        """The table draws itself."""

    def say(self, text: str) -> None:
        """Print a line above the table."""
        self._live.console.print(text, markup=False, highlight=False)

    def stop(self) -> None:
        """Draw once more and leave the table where it is."""
        self._live.stop()


def display(snapshot: Snapshot) -> Lines | LiveTable:
    """The table where standard error is a terminal, else lines."""
    return LiveTable(snapshot) if sys.stderr.isatty() else Lines(snapshot)


def table(status: dict[str, Any]) -> Table:
    """The live table of a snapshot: a row an artifact, totals, workers."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, caption=_caption(status), caption_justify="left")
    shown.add_column(status["stage"], no_wrap=True)
    for name in ("done", "failed", "in flight"):
        shown.add_column(name, justify="right")
    shown.add_column("", width=24)
    for row in status["artifacts"]:
        shown.add_row(*_cells(row["name"], row))
    if len(status["artifacts"]) > 1:
        shown.add_row(*_cells("all", status["units"]), style="bold")
    return shown


def _cells(name: str, row: dict[str, Any]) -> tuple[Any, ...]:
    from rich.progress_bar import ProgressBar

    failed = f"[red]{row['failed']}[/red]" if row["failed"] else "-"
    bar = ProgressBar(total=max(row["units"], 1), completed=row["done"], width=24)
    return name, f"{row['done']}/{row['units']}", failed, str(row["in_flight"] or "-"), bar


def _caption(status: dict[str, Any]) -> str:
    left = f"about {duration_text(status['eta_s'])} left" if status["eta_s"] else "time left not known yet"
    nodes = ", ".join(f"{node} {count}" for node, count in status["workers"].items()) or "none yet"
    lost = f", {status['workers_lost']} lost" if status["workers_lost"] else ""
    return f"{status['units_per_s']:.3g} units/s, {left}; workers: {nodes}{lost}"
