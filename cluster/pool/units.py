"""The units of a run: a list of them, or a table that makes each when it is handed out."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Unit:
    """One idempotent piece of work: running it twice writes the same thing twice.

    Attributes:
      id: unique in one call of `execute()`.
      payload: picklable, handed to `Worker.run`; keep it to kilobytes.
      after: ids of the units that must have succeeded before this one starts.
      label: what a progress display shows.
      weight: expected cost relative to the other units; scales the deadline and an ETA.
    """

    id: str
    payload: Any
    after: tuple[str, ...] = ()
    label: str = ""
    weight: float = 1.0


@runtime_checkable
class Units(Protocol):
    """Units by their position, made when they are asked for: a run of 1e5 units then holds none of them.

    `execute()` takes this in place of a list. It may ask for a unit more than once and expects the same again;
    ids must be unique. The `after` of the units it makes is not read: `after()` says what they wait for, by
    position. Both must be cheap, and independent of time.
    """

    def __len__(self) -> int:
        """Number of units."""

    def __getitem__(self, index: int, /) -> Unit:
        """The unit at a position, payload and label included."""

    def after(self, index: int) -> Sequence[int]:
        """Positions of the units that must have succeeded before the one at `index` starts."""


@dataclass(frozen=True)
class UnitGroup:
    """Units side by side in the order of preference, whose workers load the same thing before the first of them.

    Attributes:
      stop: position after the last of them.
      weight: of all of them together.
      load: what loading costs a worker that has loaded something else, in the unit of the weights.
    """

    stop: int
    weight: float = 0.0
    load: float = 0.0


@runtime_checkable
class GroupedUnits(Units, Protocol):
    """`Units` of several groups: a worker stays with a group as long as no other needs it much more."""

    def groups(self) -> Sequence[UnitGroup]:
        """The groups, in the order of their positions; together they hold all units."""


class UnitList:
    """`Units` of a plain sequence; refuses duplicate ids and unknown dependencies (ValueError)."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self._units = units
        self._positions = {unit.id: position for position, unit in enumerate(units)}
        if len(self._positions) != len(units):
            twice = next(unit.id for i, unit in enumerate(units) if self._positions[unit.id] != i)
            raise ValueError(f"unit id '{twice}' is given twice; ids must be unique in one run.")
        for unit in units:
            for name in unit.after:
                if name not in self._positions:
                    raise ValueError(
                        f"unit '{unit.id}' comes after '{name}', which is not a unit of this run."
                    )

    def __len__(self) -> int:
        return len(self._units)

    def __getitem__(self, index: int) -> Unit:
        return self._units[index]

    def after(self, index: int) -> list[int]:
        """Positions of what the unit comes after."""
        return [self._positions[name] for name in self._units[index].after]


class Dependencies:
    """Who waits for whom, by position, in arrays of 12 bytes a unit and 4 a dependency.

    Attributes:
      waiting_for: per unit, how many of the units it comes after have not succeeded yet.

    Raises:
      ValueError: a position that is none, or a cycle.
    """

    def __init__(self, units: Units) -> None:
        count = len(units)
        self.waiting_for = array("i", bytes(4 * count))
        self._starts = array("i", bytes(4 * (count + 1)))
        for index in range(count):
            before = set(units.after(index))
            self.waiting_for[index] = len(before)
            for position in before:
                if not 0 <= position < count:
                    raise ValueError(
                        f"unit {index} comes after unit {position}; there are units 0 to {count - 1}."
                    )
                self._starts[position + 1] += 1
        for index in range(count):
            self._starts[index + 1] += self._starts[index]
        self._dependents = array("i", bytes(4 * self._starts[count]))
        filled = self._starts[:]
        for index in range(count):
            for position in set(units.after(index)):
                self._dependents[filled[position]] = index
                filled[position] += 1
        self._refuse_cycles(units)

    def dependents(self, index: int) -> Sequence[int]:
        """The units that come after this one, in order."""
        return self._dependents[self._starts[index] : self._starts[index + 1]]

    def _refuse_cycles(self, units: Units) -> None:
        waiting = self.waiting_for[:]
        free = array("i", (index for index, blockers in enumerate(waiting) if not blockers))
        for index in free:  # grows while it is read: Kahn's topological order
            for dependent in self.dependents(index):
                waiting[dependent] -= 1
                if not waiting[dependent]:
                    free.append(dependent)
        if len(free) < len(waiting):
            stuck = [units[index].id for index, blockers in enumerate(waiting) if blockers][:5]
            raise ValueError(
                f"units wait for each other in a cycle: {', '.join(stuck)}; no order can run them."
            )
