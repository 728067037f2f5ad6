"""Weak scaling of the Ray pool: time per round of sleeping units on 32 workers, against one worker.

A sleeping unit leaves the cores free, so that many workers fit on a small machine; each holds one device of a
private cluster that only counts its devices. Every worker runs `rounds` units. The clock starts when all
workers are built and have met, so starting processes is not counted; it is printed.
"""

from __future__ import annotations

import functools
import os
import tempfile
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from workflows.bench.paired import Comparison, Measurement, run_pairs, seconds_text

if TYPE_CHECKING:
    from cluster.pool.executor import Executor
    from cluster.pool.units import Unit

_MEET_S = 120.0


@dataclass(frozen=True)
class Nap:
    """The payload of a unit: sleep, or meet `others` units of the same kind in a directory."""

    seconds: float = 0.0
    directory: str = ""
    others: int = 0


class Sleeper:
    """Worker that only waits."""

    def run(self, nap: Nap) -> None:
        """Sleep, or wait until all the others are here."""
        if not nap.directory:
            time.sleep(nap.seconds)
            return
        with open(os.path.join(nap.directory, f"{os.getpid()}-{time.monotonic_ns()}"), "x"):
            pass
        deadline = time.monotonic() + _MEET_S
        while len(os.listdir(nap.directory)) < nap.others:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not all of {nap.others} workers were there after {_MEET_S:g} s")
            time.sleep(0.01)


def measure(
    *, repeats: int = 5, workers: int = 32, rounds: int = 5, unit_seconds: float = 1.0
) -> Measurement:
    """Time per round on one worker and on many.

    Figures: efficiency (one worker over many, of the medians), round_one, round_many, start_seconds.
    """
    from cluster.ray.session import RaySession

    starts: list[float] = []
    session = RaySession("local", num_cpus=os.cpu_count(), num_gpus=workers)
    try:
        sides = [
            functools.partial(_seconds_a_round, count, rounds, unit_seconds, starts) for count in (1, workers)
        ]
        pairs = run_pairs(sides[0], sides[1], repeats=repeats)
    finally:
        session.close()
    comparison = Comparison(
        what="time per round of sleeping units",
        n=f"{rounds} rounds of {unit_seconds:g} s",
        sides=("1 worker", f"{workers} workers"),
        figures=("", f"efficiency {1 / pairs.ratio:.1%}"),
        target="efficiency >= 95 %",
    )
    one, many = pairs.medians
    return Measurement(
        comparison.rows(pairs),
        {
            "efficiency": one / many,
            "round_one": one,
            "round_many": many,
            "start_seconds": median(starts[1::2]),
        },
        (
            f"not counted: {seconds_text(median(starts[1::2]))} until {workers} workers were built and had met",
        ),
    )


def _seconds_a_round(count: int, rounds: int, unit_seconds: float, starts: list[float]) -> float:
    from cluster.ray.executor import RayExecutor

    return seconds_a_round(RayExecutor(num_workers=count), count, rounds, unit_seconds, starts)


def seconds_a_round(
    executor: Executor, workers: int, rounds: int, unit_seconds: float, starts: list[float]
) -> float:
    """Seconds a round takes once all workers have met; adds to `starts` how long that took."""
    from cluster.pool.executor import Resources

    with tempfile.TemporaryDirectory() as directory:
        units = _units(directory, workers, rounds, unit_seconds)
        begun = met = time.perf_counter()
        resources = Resources(num_cpus=0.01, num_gpus=1)
        for number, outcome in enumerate(executor.execute(units, Sleeper, resources)):
            if outcome.error is not None:
                raise RuntimeError(f"{outcome.unit.id}: {outcome.error}")
            if number == workers - 1:
                met = time.perf_counter()
        starts.append(met - begun)
        return (time.perf_counter() - met) / rounds


def _units(directory: str, workers: int, rounds: int, unit_seconds: float) -> list[Unit]:
    from cluster.pool.units import Unit

    meet = [Unit(f"meet/{i}", Nap(directory=directory, others=workers)) for i in range(workers)]
    after = tuple(unit.id for unit in meet)
    return meet + [Unit(f"sleep/{i}", Nap(unit_seconds), after=after) for i in range(workers * rounds)]
