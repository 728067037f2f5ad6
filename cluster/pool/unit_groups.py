"""Which group of units a free worker serves: its own, unless another needs it more than loading costs.

A group would end when what is left of it has been done by the workers that are with it. Workers are spread so that all
groups end at about the same time, and change between groups as seldom as that allows.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cluster.pool.units import UnitGroup

# How much later another group must end than the own one before a worker changes: ends are estimates.
_LATER = 1.1


@dataclass
class QueuedGroup:
    """One group's units in a queue.

    Attributes:
      cursor: the first position not looked at; ready units before it are in `ready`.
      stop: position after the last.
      left: weight of the units that have not come out.
      load: as in `UnitGroup`.
      ready: positions before the cursor that may start, a heap.
    """

    cursor: int
    stop: int
    left: float
    load: float
    ready: list[int] = field(default_factory=list)


class UnitGroups:
    """The groups of a queue.

    Args:
      groups: in the order of their positions.
    """

    def __init__(self, groups: Sequence[UnitGroup]) -> None:
        self._stops = [group.stop for group in groups]
        starts = [0, *self._stops[:-1]]
        self._groups = [
            QueuedGroup(start, group.stop, group.weight, group.load)
            for start, group in zip(starts, groups, strict=True)
        ]

    def __iter__(self) -> Iterator[QueuedGroup]:
        return iter(self._groups)

    def __getitem__(self, number: int) -> QueuedGroup:
        return self._groups[number]

    def number_of(self, position: int) -> int:
        """The number of the group that holds a position."""
        return bisect_right(self._stops, position)

    def of(self, position: int) -> QueuedGroup:
        """The group that holds a position."""
        return self._groups[self.number_of(position)]

    def to_try(self, own: int | None, holders: Mapping[int, int]) -> Sequence[QueuedGroup]:
        """The groups that a worker may take a unit of, the one that needs it most first.

        Args:
          own: the group that the worker is with; None = none yet.
          holders: how many workers are with each group, this one among them.
        """
        if len(self._groups) == 1:
            return self._groups
        ends = {n: group.left / (holders.get(n, 0) + 1) for n, group in enumerate(self._groups) if n != own}
        others = sorted(ends, key=lambda n: -ends[n])
        if own is None:
            return [self._groups[n] for n in others]
        mine = self._groups[own].left / max(1, holders.get(own, 0))
        urgent = [n for n in others if ends[n] - self._groups[n].load > _LATER * mine]
        # Where the own group has nothing ready, any group is worth its loading; one without workers always is.
        useful = [n for n in others if n not in urgent and self._gain(n, ends[n], holders) > 0]
        return [self._groups[n] for n in (*urgent, own, *useful)]

    def _gain(self, number: int, end: float, holders: Mapping[int, int]) -> float:
        """Weight that a worker more takes off a group, beyond its loading."""
        return end - self._groups[number].load if holders.get(number, 0) else math.inf
