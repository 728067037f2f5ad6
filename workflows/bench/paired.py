"""Two sides run in turn in one process: medians, spread, ratios, and the table they are printed in.

Runs alternate (A B A B) after one untimed run of each, so that what else the machine does falls on both
sides, and the ratio of a pair compares neighbours in time.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from workflows.text import print_table

Side = Callable[[], float]
"""Runs once and returns what it measured: seconds, or bytes."""

HEADER = ("what", "n", "side", "median", "min to max", "figure", "ratio", "of pairs", "target")


@dataclass(frozen=True)
class TableRow:
    """One line of a benchmark's table, as text."""

    what: str
    n: str
    side: str
    median: str
    spread: str = ""
    figure: str = ""
    ratio: str = ""
    pairs: str = ""
    target: str = ""


@dataclass(frozen=True)
class Measurement:
    """What a benchmark found: the table, what a reader must know beside it, and its figures by name."""

    rows: tuple[TableRow, ...]
    figures: Mapping[str, float]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pairs:
    """What both sides measured, run by run; entry i of both is pair i."""

    first: tuple[float, ...]
    second: tuple[float, ...]

    @property
    def medians(self) -> tuple[float, float]:
        """Median of either side."""
        return statistics.median(self.first), statistics.median(self.second)

    @property
    def ratio(self) -> float:
        """Second over first, of the medians."""
        first, second = self.medians
        return second / first

    @property
    def ratios(self) -> tuple[float, ...]:
        """Second over first, pair by pair."""
        return tuple(b / a for a, b in zip(self.first, self.second, strict=True))


def run_pairs(first: Side, second: Side, *, repeats: int) -> Pairs:
    """Run both sides in turn, `repeats` times each, after one run of each that does not count."""
    measured = run_in_turn({"first": first, "second": second}, repeats=repeats)
    return Pairs(measured["first"], measured["second"])


def run_in_turn(sides: Mapping[str, Side], *, repeats: int) -> dict[str, tuple[float, ...]]:
    """As `run_pairs` for any number of sides: what each measured, run by run, after one run that does not count."""
    for side in sides.values():
        side()
    measured = [{name: side() for name, side in sides.items()} for _ in range(repeats)]
    return {name: tuple(run[name] for run in measured) for name in sides}


def timed(function: Callable[[], object]) -> Side:
    """The side that runs `function` and measures its wall time in seconds."""

    def side() -> float:
        begun = time.perf_counter()
        function()
        return time.perf_counter() - begun

    return side


def seconds_text(seconds: float) -> str:
    """0.01234 -> '12.3 ms', 1.234 -> '1.23 s'."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


@dataclass(frozen=True)
class Comparison:
    """How a pair of sides is written: two rows, the second with the ratio and its target."""

    what: str
    n: str
    sides: tuple[str, str]
    figures: tuple[str, str] = ("", "")
    target: str = ""
    unit: Callable[[float], str] = field(default=seconds_text)

    def rows(self, pairs: Pairs) -> tuple[TableRow, TableRow]:
        """Both rows."""
        texts = [
            (self.unit(median), f"{self.unit(min(runs))} to {self.unit(max(runs))}")
            for median, runs in zip(pairs.medians, (pairs.first, pairs.second), strict=True)
        ]
        low, high = min(pairs.ratios), max(pairs.ratios)
        return (
            TableRow(self.what, self.n, self.sides[0], *texts[0], figure=self.figures[0]),
            TableRow(
                "",
                "",
                self.sides[1],
                *texts[1],
                figure=self.figures[1],
                ratio=f"{pairs.ratio:.3g}",
                pairs=f"{low:.3g} to {high:.3g}",
                target=self.target,
            ),
        )


def print_measurement(measurement: Measurement) -> None:
    """Print the table of a benchmark, then its notes."""
    rows = [
        (r.what, r.n, r.side, r.median, r.spread, r.figure, r.ratio, r.pairs, r.target)
        for r in measurement.rows
    ]
    used = [i for i in range(len(HEADER)) if any(row[i] for row in rows)]
    print_table([HEADER[i] for i in used], [[row[i] for i in used] for row in rows])
    for note in measurement.notes:
        print(f"  {note}", flush=True)


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch on `count` threads in this thread's products; what was set before comes back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
