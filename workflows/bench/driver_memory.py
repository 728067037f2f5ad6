"""Peak memory of the driver, from a hundred units to a hundred thousand: it must not grow with them.

Each size runs in a process of its own, through the real queue, pool and loop, on one worker in the calling
thread that does nothing. Units have the payload, the dependencies and the labels of a run: the second half
waits for the first, unit for unit. What is measured is how far the peak of resident memory (VmHWM) rises
during the run.
"""

from __future__ import annotations

import subprocess
import sys
from statistics import median
from typing import TYPE_CHECKING, Any

from workflows.bench.paired import Measurement, Row
from workflows.text import bytes_text, count_text

if TYPE_CHECKING:
    from cluster.units import Unit

SIZES = (100, 1_000, 10_000, 100_000)


def measure(*, repeats: int = 5, sizes: tuple[int, ...] = SIZES) -> Measurement:
    """Peak growth for every size, medians over `repeats` processes.

    Figures, by size: "<size>/bytes"; growth, of the largest size over the smallest.
    """
    found = {size: [_in_a_process(size) for _ in range(repeats)] for size in sizes}
    medians = {size: median(runs) for size, runs in found.items()}
    growth = medians[sizes[-1]] - medians[sizes[0]]
    rows = [
        Row(
            "peak of the driver",
            f"{count_text(size)} units",
            "queue, pool and loop",
            bytes_text(medians[size]),
            f"{bytes_text(min(runs))} to {bytes_text(max(runs))}",
            figure=f"{(medians[size] - medians[sizes[0]]) / size:.0f} B a unit" if size != sizes[0] else "",
            target="<= 5 MB more" if size == sizes[-1] else "",
        )
        for size, runs in found.items()
    ]
    figures = {f"{size}/bytes": value for size, value in medians.items()} | {"growth": growth}
    return Measurement(
        tuple(rows), figures, (f"growth from {sizes[0]} to {sizes[-1]} units: {bytes_text(growth)}",)
    )


class ManyUnits:
    """`cluster.Units` of a run with two artifacts: unit i of the second waits for unit i of the first."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._half = count // 2

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Unit:
        from cluster.units import Unit

        payload = {
            "store": "/scratch/runs/taba",
            "shard": index,
            "attrs": {f"field {i}": i for i in range(20)},
        }
        return Unit(f"unit/{index}", payload, label=f"artifact {index + 1}/{self._count}")

    def after(self, index: int) -> tuple[int, ...]:
        """The unit of the first half that this one of the second half needs."""
        return (index - self._half,) if index >= self._half else ()


class _Idle:
    def run(self, payload: Any) -> dict[str, Any]:
        return {"bytes": payload["shard"]}


def peak_growth(size: int) -> int:
    """Bytes by which the peak of this process rises while it runs that many units."""
    from cluster.local import LocalExecutor

    list(LocalExecutor().execute(ManyUnits(10), _Idle))  # what every run needs is loaded
    before = _peak()
    done = sum(outcome.error is None for outcome in LocalExecutor().execute(ManyUnits(size), _Idle))
    assert done == size
    return _peak() - before


def _peak() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def _in_a_process(size: int) -> int:
    code = f"from workflows.bench.driver_memory import peak_growth; print(peak_growth({size}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)
