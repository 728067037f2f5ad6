"""The order of work: which unit may start, what a failure means, when all is done. No threads, no clock."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from cluster.pool.executor import Outcome
from cluster.pool.unit_groups import QueuedGroup, UnitGroups
from cluster.pool.units import Dependencies, GroupedUnits, Unit, UnitGroup, UnitList, Units

MAX_ATTEMPTS = 4
_OPEN, _SETTLED = 0, 1


class UnitQueue:
    """State machine of a run; executors ask it for units and tell it how they ended.

    A unit is waiting (for dependencies), ready, delayed (before a retry), running or settled. Ready units are
    handed out in the order they were given, so the dependents of early units also run early; where there are groups,
    in the order of the group that a worker is with. Beside a table of some 20 bytes a unit, only units that run or have
    failed before are held.

    Args:
      units: all units of the run, in order of preference.
      max_attempts: starts after which a failing unit is given up.
      retry_delay: seconds before the first retry after an error; doubles with every further attempt.

    Raises:
      ValueError: duplicate ids, unknown or cyclic dependencies.
    """

    def __init__(
        self, units: Sequence[Unit] | Units, *, max_attempts: int = MAX_ATTEMPTS, retry_delay: float = 1.0
    ) -> None:
        self._units: Units = units if isinstance(units, Units) else UnitList(units)
        self._dependencies = Dependencies(self._units)
        self._max_attempts = max_attempts
        self._retry_delay = retry_delay
        self._attempts = bytearray(len(self._units))
        self._state = bytearray(len(self._units))
        declared = self._units.groups() if isinstance(self._units, GroupedUnits) else ()
        self._groups = UnitGroups(declared or (UnitGroup(len(self._units)),))
        self._delayed: list[tuple[float, int]] = []
        self._running: dict[str, tuple[int, Unit]] = {}
        self._causes: dict[int, list[str]] = {}
        self._suspects: set[int] = set()
        self._num_settled = 0
        self.completed = 0

    @property
    def finished(self) -> bool:
        """Whether every unit has come out."""
        return self._num_settled == len(self._state)

    @property
    def in_flight(self) -> int:
        """Units handed out and not yet reported."""
        return len(self._running)

    @property
    def remaining(self) -> int:
        """Units that have not come out yet."""
        return len(self._state) - self._num_settled

    def take(
        self,
        now: float,
        *,
        alone: bool = True,
        group: int | None = None,
        holders: Mapping[int, int] = MappingProxyType({}),
    ) -> Unit | None:
        """Hand out the first ready unit of the group that needs the worker most, or None.

        Args:
          now: any clock that only goes forward, in seconds.
          alone: whether the unit would have its worker for itself. A unit whose worker was lost before waits
            until it has: should it be lost again, no other unit is suspected with it.
          group: whose units the worker has loaded for; None = none yet.
          holders: how many workers are with each group.
        """
        self._wake(now)
        for queued in self._groups.to_try(group, holders):
            if queued.ready:
                if not alone and queued.ready[0] in self._suspects:
                    continue
                index = heapq.heappop(queued.ready)
                break
            if self._reach(queued):
                index = queued.cursor
                queued.cursor += 1
                break
        else:
            return None
        unit = self._units[index]
        self._running[unit.id] = (index, unit)
        self._attempts[index] += 1
        return unit

    def may_have_ready(self, now: float) -> bool:
        """Whether a unit is ready, for whatever worker."""
        self._wake(now)
        return any(queued.ready or self._reach(queued) for queued in self._groups)

    def group_of(self, unit_id: str) -> int:
        """The group of a running unit."""
        return self._groups.number_of(self._find(unit_id)[0])

    def loads(self, group: int) -> bool:
        """Whether units of a group need something loaded."""
        return self._groups[group].load > 0

    def next_retry(self, now: float) -> float | None:
        """Seconds until a delayed unit becomes ready, 0 if it already is; None without delayed units."""
        return max(0.0, self._delayed[0][0] - now) if self._delayed else None

    def attempts(self, unit_id: str) -> int:
        """How often the running unit was handed out so far."""
        return self._attempts[self._find(unit_id)[0]]

    def is_suspect(self, unit_id: str) -> bool:
        """Whether a worker was lost while it held the running unit."""
        return self._find(unit_id)[0] in self._suspects

    def succeed(
        self,
        unit_id: str,
        result: Any,
        *,
        seconds: float = 0.0,
        worker: str = "",
        node: str = "",
        gpu: str = "",
    ) -> Outcome:
        """Settle a running unit with its result and free the units that waited for it."""
        index, unit = self._stop(unit_id)
        self._settle(index, unit)
        self.completed += 1
        for dependent in self._dependencies.dependents(index):
            self._dependencies.waiting_for[dependent] -= 1
            ready = not self._dependencies.waiting_for[dependent] and not self._state[dependent]
            queued = self._groups.of(dependent)
            if ready and dependent < queued.cursor:
                heapq.heappush(queued.ready, dependent)
        return Outcome(unit, result, None, self._attempts[index], seconds, worker, node, gpu=gpu)

    def fail(
        self,
        unit_id: str,
        error: str,
        *,
        now: float,
        trace: str = "",
        hopeless: bool = False,
        **place: Any,
    ) -> list[Outcome]:
        """Report that a running unit raised; `hopeless` if another try would end the same, `place` as in `succeed`.

        Returns:
          Nothing when it will be tried again after a pause; else its own outcome and those of all units that
          can no longer run because of it.
        """
        index, unit = self._stop(unit_id)
        self._causes.setdefault(index, []).append(error)
        attempts = self._attempts[index]
        if attempts < self._max_attempts and not hopeless:
            heapq.heappush(self._delayed, (now + self._retry_delay * 2 ** (attempts - 1), index))
            return []
        return self._give_up(index, unit, error, trace, place)

    def lose(self, unit_id: str, error: str, **place: Any) -> list[Outcome]:
        """Report that the worker of a running unit was lost: ready again at once, in its old place.

        The attempt counts, because a unit may itself be what ends its workers; from now on it runs alone.
        """
        index, unit = self._stop(unit_id)
        self._causes.setdefault(index, []).append(error)
        if self._attempts[index] < self._max_attempts:
            self._suspects.add(index)
            heapq.heappush(self._groups.of(index).ready, index)
            return []
        return self._give_up(index, unit, error, "", place)

    def _wake(self, now: float) -> None:
        """Put delayed units whose time has come among the ready ones."""
        while self._delayed and self._delayed[0][0] <= now:
            index = heapq.heappop(self._delayed)[1]
            heapq.heappush(self._groups.of(index).ready, index)

    def _reach(self, queued: QueuedGroup) -> bool:
        """Move a group's cursor to its first unit that waits for nothing; whether there is one."""
        waiting_for, state = self._dependencies.waiting_for, self._state
        while queued.cursor < queued.stop and (waiting_for[queued.cursor] or state[queued.cursor]):
            queued.cursor += 1
        return queued.cursor < queued.stop

    def _find(self, unit_id: str) -> tuple[int, Unit]:
        if unit_id not in self._running:
            raise ValueError(f"unit '{unit_id}' is not running; only a running unit can be reported.")
        return self._running[unit_id]

    def _stop(self, unit_id: str) -> tuple[int, Unit]:
        found = self._find(unit_id)
        del self._running[unit_id]
        return found

    def _settle(self, index: int, unit: Unit) -> None:
        self._state[index] = _SETTLED
        self._groups.of(index).left -= unit.weight
        self._num_settled += 1
        self._suspects.discard(index)
        self._causes.pop(index, None)

    def _give_up(
        self, index: int, unit: Unit, error: str, trace: str, place: dict[str, Any]
    ) -> list[Outcome]:
        where: dict[str, Any] = {"seconds": 0.0, "worker": "", "node": ""} | place
        causes = tuple(self._causes[index])
        outcomes = [Outcome(unit, None, error, self._attempts[index], trace=trace, causes=causes, **where)]
        self._settle(index, unit)
        failed = [(index, unit.id)]
        while failed:
            index, cause = failed.pop(0)
            for dependent in self._dependencies.dependents(index):
                if self._state[dependent] == _OPEN:
                    blocked = self._units[dependent]
                    self._settle(dependent, blocked)
                    outcomes.append(Outcome(blocked, None, f"not run: {cause} failed", 0, 0.0, "", ""))
                    failed.append((dependent, blocked.id))
        return outcomes
