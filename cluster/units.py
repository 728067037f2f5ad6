"""The units of a run: a list of them, or a table that makes each when it is handed out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from cluster.executor import Unit


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
