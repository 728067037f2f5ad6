"""A run on simulated nodes: the pool, the queue and the loop of a real one, under a clock that jumps.

What is simulated is the backend alone: how long loading, computing and writing take, and what is lost when.
Everything random is a function of the seed and of what it happens to (the third attempt of unit u7, the first
life of node n5), so a change of the policy meets the same failures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cluster.pool.drive import drive
from cluster.pool.events import Event
from cluster.pool.executor import Drained, Outcome, Resources
from cluster.pool.limits import Limits
from cluster.pool.pool import Pool
from cluster.pool.unit_queue import UnitQueue
from cluster.pool.units import Unit, Units
from cluster.simulation.backend import Durations, Failures, SimulatedBackend


@dataclass(frozen=True)
class Simulation:
    """What a simulated run came to. Times are in simulated seconds.

    Attributes:
      makespan: from the start to the last outcome.
      busy_worker_seconds: time workers spent on units, summed; finishing beside computing counts once.
      lost_worker_seconds: the part of it spent on attempts that failed or were lost.
      utilisation: busy, without loading, over what all workers had from when they were built and had loaded the
        first thing they needed to their end; at most 1.
      loading_worker_seconds: the part of busy that workers spent on loading, the first thing of each included.
      tail_seconds: from when the first worker had nothing to do any more, to the end.
      attempts: starts of units.
      workers_lost, nodes_lost: how many.
      failed_units: ids of units that did not succeed.
      completed: units that did.
      remaining: units left when `stop_after` ended the run.
      timeline: (time, what happened) of everything but units that started or finished.
    """

    makespan: float
    busy_worker_seconds: float
    lost_worker_seconds: float
    utilisation: float
    loading_worker_seconds: float
    tail_seconds: float
    attempts: int
    workers_lost: int
    nodes_lost: int
    failed_units: tuple[str, ...]
    completed: int
    remaining: int
    timeline: tuple[tuple[float, Event], ...]


def simulate(
    units: Sequence[Unit] | Units,
    resources: Resources,
    nodes: Sequence[tuple[str, Mapping[str, float]]],
    durations: Durations,
    *,
    failures: Failures = Failures(),
    limits: Limits = Limits(),
    stop_after: float | None = None,
    watch: Callable[[float, Event], None] | None = None,
) -> Simulation:
    """Run units on nodes that exist only in the clock.

    Args:
      nodes: name and what it offers (CPU, GPU, memory), as Ray counts.
      durations: what units and workers take.
      limits: deadlines, as of a real run.
      stop_after: seconds after which the run is asked to stop gently, as by a time limit; None = never.
      watch: shown every event and the second it happened in.

    Raises:
      NoWorkers: no node holds a worker, or all are lost for good.
    """
    backend = SimulatedBackend(nodes, durations, failures)
    queue = UnitQueue(units)
    record = _Record(backend, watch)
    pool = Pool(backend, resources, None, limits, on_event=record)
    remaining = 0
    try:
        came = 0
        for outcome in drive(queue, pool, backend, _StopAfter(backend, stop_after), record):
            record.ended(outcome)
            came += 1
            if not outcome.more:
                backend.settle(came)
                came = 0
    except Drained as drained:
        remaining = drained.remaining
    return record.summary(remaining)


class _StopAfter:
    def __init__(self, backend: SimulatedBackend, seconds: float | None) -> None:
        self._backend, self._seconds = backend, math.inf if seconds is None else seconds

    @property
    def reason(self) -> str | None:
        """Asks for a stop once its time has come."""
        return f"the limit of {self._seconds:g} s" if self._backend.now() >= self._seconds else None


@dataclass
class _Use:
    """One worker's time: from when it was built to its end, and how much of it was spent on units."""

    built: float
    end: float | None = None
    held: dict[str, float] = field(default_factory=dict)
    busy: float = 0.0
    busy_since: float = 0.0
    idle_since: float = 0.0


class _Record:
    """Adds up what happens, from the events of the run."""

    def __init__(
        self, backend: SimulatedBackend, watch: Callable[[float, Event], None] | None = None
    ) -> None:
        self._now, self._backend = backend.now, backend
        self._watch = watch
        self._use: dict[str, _Use] = {}
        self._lost = 0.0
        self._attempts = self._workers_lost = self._nodes_lost = self._completed = 0
        self._failed: list[str] = []
        self._timeline: list[tuple[float, Event]] = []
        self._last = 0.0

    def __call__(self, event: Event) -> None:
        """Take an event in."""
        now = self._now()
        if self._watch is not None:
            self._watch(now, event)
        if event.kind == "unit-started":
            self._attempts += 1
            self._begin(self._use[event.worker], event.unit, now)
            return
        if event.kind == "unit-finished":
            self._end(self._use[event.worker], event.unit, now)
            return
        self._timeline.append((now, event))
        if event.kind in ("unit-retry", "unit-failed") and event.worker:
            use = self._use[event.worker]
            self._lost += now - use.held.get(event.unit, now)
            self._end(use, event.unit, now)
        elif event.kind == "worker-ready":
            self._use[event.worker] = _Use(built=now, idle_since=now)
        elif event.kind == "worker-lost":
            self._workers_lost += 1
            if event.worker in self._use:
                self._use[event.worker].end = now
        elif event.kind == "node-lost":
            self._nodes_lost += 1

    def ended(self, outcome: Outcome) -> None:
        """Take an outcome in."""
        self._last = self._now()
        if outcome.error is None:
            self._completed += 1
        else:
            self._failed.append(outcome.unit.id)

    def summary(self, remaining: int) -> Simulation:
        """What all of it came to."""
        end = self._last
        had = sum(
            (end if use.end is None else min(use.end, end)) - min(use.built, end)
            for use in self._use.values()
        )
        busy = sum(use.busy for use in self._use.values())
        loading, had = self._backend.loading, had - self._backend.first_loading
        alive = [use.idle_since for use in self._use.values() if use.end is None]
        return Simulation(
            makespan=end,
            busy_worker_seconds=busy,
            lost_worker_seconds=self._lost,
            utilisation=(busy - loading) / had if had > 0 else 0.0,
            loading_worker_seconds=loading,
            tail_seconds=max(0.0, end - min(alive, default=end)),
            attempts=self._attempts,
            workers_lost=self._workers_lost,
            nodes_lost=self._nodes_lost,
            failed_units=tuple(self._failed),
            completed=self._completed,
            remaining=remaining,
            timeline=tuple(self._timeline),
        )

    def _begin(self, use: _Use, unit: str, now: float) -> None:
        if not use.held:
            use.busy_since = now
        use.held[unit] = now

    def _end(self, use: _Use, unit: str, now: float) -> None:
        if use.held.pop(unit, None) is not None and not use.held:
            use.busy += now - use.busy_since
            use.idle_since = now
