"""The order of work: which unit may start, what a failure means, when all is done. No threads, no clock."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

from cluster.executor import Outcome, Unit

MAX_ATTEMPTS = 4


class UnitQueue:
    """State machine of a run; executors ask it for units and tell it how they ended.

    A unit is waiting (for dependencies), ready, delayed (before a retry), running or settled. Ready units are
    handed out in the order they were given, so the dependents of early units also run early.

    Args:
      units: all units of the run, in order of preference.
      max_attempts: starts after which a failing unit is given up.
      retry_delay: seconds before the first retry after an error; doubles with every further attempt.
    """

    def __init__(
        self, units: Sequence[Unit], *, max_attempts: int = MAX_ATTEMPTS, retry_delay: float = 1.0
    ) -> None:
        self._units = list(units)
        self._index = {unit.id: index for index, unit in enumerate(self._units)}
        self._max_attempts = max_attempts
        self._retry_delay = retry_delay
        _check(self._units, self._index)
        self._blockers = [set(unit.after) for unit in self._units]
        self._dependents: dict[str, list[int]] = {unit.id: [] for unit in self._units}
        for index, unit in enumerate(self._units):
            for name in set(unit.after):
                self._dependents[name].append(index)
        self._attempts = [0] * len(self._units)
        self._ready = [index for index, blockers in enumerate(self._blockers) if not blockers]
        self._delayed: list[tuple[float, int]] = []
        self._running: set[int] = set()
        self._settled: set[int] = set()
        self.completed = 0

    @property
    def finished(self) -> bool:
        """Whether every unit has come out."""
        return len(self._settled) == len(self._units)

    @property
    def in_flight(self) -> int:
        """Units handed out and not yet reported."""
        return len(self._running)

    @property
    def remaining(self) -> int:
        """Units that have not come out yet."""
        return len(self._units) - len(self._settled)

    def take(self, now: float) -> Unit | None:
        """Hand out the first ready unit, or None; `now` is any clock that only goes forward, in seconds."""
        while self._delayed and self._delayed[0][0] <= now:
            heapq.heappush(self._ready, heapq.heappop(self._delayed)[1])
        if not self._ready:
            return None
        index = heapq.heappop(self._ready)
        self._running.add(index)
        self._attempts[index] += 1
        return self._units[index]

    def next_retry(self, now: float) -> float | None:
        """Seconds until a delayed unit becomes ready, 0 if it already is; None without delayed units."""
        return max(0.0, self._delayed[0][0] - now) if self._delayed else None

    def attempts(self, unit_id: str) -> int:
        """How often the unit was handed out so far."""
        return self._attempts[self._index[unit_id]]

    def succeed(
        self, unit_id: str, result: Any, *, seconds: float = 0.0, worker: str = "", node: str = ""
    ) -> Outcome:
        """Settle a running unit with its result and free the units that waited for it."""
        index = self._stop(unit_id)
        self._settled.add(index)
        self.completed += 1
        for dependent in self._dependents[unit_id]:
            self._blockers[dependent].discard(unit_id)
            if not self._blockers[dependent] and dependent not in self._settled:
                heapq.heappush(self._ready, dependent)
        unit = self._units[index]
        return Outcome(unit, result, None, self._attempts[index], seconds, worker, node)

    def fail(
        self,
        unit_id: str,
        error: str,
        *,
        now: float,
        seconds: float = 0.0,
        worker: str = "",
        node: str = "",
        trace: str = "",
    ) -> list[Outcome]:
        """Report that a running unit raised.

        Returns:
          Nothing when it will be tried again after a pause; else its own outcome and those of all units that
          can no longer run because of it.
        """
        attempts = self._attempts[self._index[unit_id]]
        if attempts < self._max_attempts:
            index = self._stop(unit_id)
            heapq.heappush(self._delayed, (now + self._retry_delay * 2 ** (attempts - 1), index))
            return []
        return self._give_up(unit_id, error, seconds, worker, node, trace)

    def lose(
        self, unit_id: str, error: str, *, seconds: float = 0.0, worker: str = "", node: str = ""
    ) -> list[Outcome]:
        """Report that the worker of a running unit was lost: ready again at once, in its old place.

        The attempt counts, because a unit may itself be what ends its workers.
        """
        if self._attempts[self._index[unit_id]] < self._max_attempts:
            heapq.heappush(self._ready, self._stop(unit_id))
            return []
        return self._give_up(unit_id, error, seconds, worker, node, "")

    def _stop(self, unit_id: str) -> int:
        index = self._index[unit_id]
        if index not in self._running:
            raise ValueError(f"unit '{unit_id}' is not running; only a running unit can be reported.")
        self._running.remove(index)
        return index

    def _give_up(
        self, unit_id: str, error: str, seconds: float, worker: str, node: str, trace: str
    ) -> list[Outcome]:
        index = self._stop(unit_id)
        self._settled.add(index)
        unit = self._units[index]
        outcomes = [Outcome(unit, None, error, self._attempts[index], seconds, worker, node, trace)]
        failed = [unit_id]
        while failed:
            cause = failed.pop(0)
            for dependent in self._dependents[cause]:
                if dependent not in self._settled:
                    self._settled.add(dependent)
                    blocked = self._units[dependent]
                    outcomes.append(Outcome(blocked, None, f"not run: {cause} failed", 0, 0.0, "", ""))
                    failed.append(blocked.id)
        return outcomes


def _check(units: Sequence[Unit], index: dict[str, int]) -> None:
    """Refuse duplicate ids, unknown dependencies and cycles."""
    if len(index) != len(units):
        seen: set[str] = set()
        twice = next(unit.id for unit in units if unit.id in seen or seen.add(unit.id))  # type: ignore[func-returns-value]
        raise ValueError(f"unit id '{twice}' is given twice; ids must be unique in one run.")
    for unit in units:
        for name in unit.after:
            if name not in index:
                raise ValueError(f"unit '{unit.id}' comes after '{name}', which is not a unit of this run.")
    waiting = {unit.id: set(unit.after) for unit in units}
    dependents: dict[str, list[str]] = {unit.id: [] for unit in units}
    for unit in units:
        for name in set(unit.after):
            dependents[name].append(unit.id)
    free = [name for name, blockers in waiting.items() if not blockers]
    for name in free:  # grows while it is read: Kahn's topological order
        for dependent in dependents[name]:
            waiting[dependent].discard(name)
            if not waiting[dependent]:
                free.append(dependent)
    if len(free) < len(units):
        stuck = [unit.id for unit in units if waiting[unit.id]]
        raise ValueError(
            f"units wait for each other in a cycle: {', '.join(stuck[:5])}; no order can run them."
        )
