"""Which shards are not complete: ten bytes a shard, since an artifact may have a hundred thousand of them."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

_DONE = 0  # in place of a set of variables


class MissingShards(Mapping[int, tuple[str, ...]]):
    """Shards in ascending order, each with its variables that are not complete; `done` takes one out.

    Equal to any mapping with the same shards and variables.

    Args:
      shards: (shard, its missing variables) in ascending order; a shard without missing variables is left out.
    """

    def __init__(self, shards: Iterable[tuple[int, tuple[str, ...]]] = ()) -> None:
        self._shards = array("q")
        self._set_of = array("H")  # per shard a place in `_sets`
        self._sets: list[tuple[str, ...]] = [()]
        places: dict[tuple[str, ...], int] = {}
        for shard, variables in shards:
            if variables:
                if variables not in places:
                    places[variables] = len(self._sets)
                    self._sets.append(variables)
                self._shards.append(shard)
                self._set_of.append(places[variables])
        self._left = len(self._shards)

    def __getitem__(self, shard: int) -> tuple[str, ...]:
        return self._sets[self._set_of[self._place(shard)]]

    def __iter__(self) -> Iterator[int]:
        return (shard for shard, held in zip(self._shards, self._set_of, strict=True) if held != _DONE)

    def __len__(self) -> int:
        return self._left

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.items())})"

    def done(self, shard: int) -> None:
        """Take a shard out. Raises KeyError if it is not in."""
        self._set_of[self._place(shard)] = _DONE
        self._left -= 1

    def by_variables(self) -> Counter[tuple[str, ...]]:
        """How many shards miss which variables."""
        counts = Counter(self._set_of)
        return Counter({self._sets[held]: n for held, n in counts.items() if held != _DONE})

    def _place(self, shard: int) -> int:
        place = bisect_left(self._shards, shard)
        if place == len(self._shards) or self._shards[place] != shard or self._set_of[place] == _DONE:
            raise KeyError(shard)
        return place
