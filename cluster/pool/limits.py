"""How long a worker may take before it counts as lost."""

from __future__ import annotations

import bisect
from array import array
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Times, in seconds, and counts after which the pool stops waiting.

    Attributes:
      unit_min: no unit is ended earlier than this.
      unit_factor: a unit may take this many times the median of the units before it (by weight).
      unit_first: what a unit may take while fewer than three have finished and no median exists.
      load: time a worker may take to start and build.
      refresh: interval at which nodes are listed and missing workers started.
      failed_loads: failed builds, since the last that worked, after which a node gets no more workers.
      refusals: workers that say why they cannot be built, after which a run in which none could be ends.
      empty: how long a cluster may offer no room for a single worker.
    """

    unit_min: float = 30.0
    unit_factor: float = 10.0
    unit_first: float = 3600.0
    load: float = 600.0
    refresh: float = 2.0
    failed_loads: int = 6
    refusals: int = 2
    empty: float = 60.0


class Pace:
    """Deadlines of units from the time the units before them took, per unit of weight."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._seconds = array("d")  # in order
        self._overruns: dict[str, int] = {}

    def finished(self, seconds: float, weight: float) -> None:
        """Learn from a unit that succeeded."""
        bisect.insort(self._seconds, seconds / max(weight, 1e-9))

    def overran(self, unit_id: str) -> None:
        """Remember that a unit was ended at its deadline."""
        self._overruns[unit_id] = self._overruns.get(unit_id, 0) + 1

    def deadline(self, unit_id: str, weight: float) -> float:
        """Seconds the unit may take: max(unit_min, unit_factor * median * weight), 4 times more per overrun.

        The growth lets a unit whose weight was badly estimated finish in the end, while one that hangs is
        given up after its last attempt.
        """
        limits = self._limits
        if len(self._seconds) < 3:
            allowed = limits.unit_first
        else:
            median = self._seconds[len(self._seconds) // 2]
            allowed = max(limits.unit_min, limits.unit_factor * median * weight)
        return allowed * 4.0 ** self._overruns.get(unit_id, 0)
