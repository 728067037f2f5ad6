"""The units of a run: one a missing shard, each made when it is handed out, so that 1e5 of them weigh nothing."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection
from itertools import accumulate

from cluster.pool.executor import Unit
from workflows.planning.plan import Plan, PlannedArtifact


def parse_unit_id(unit: str) -> tuple[str, int]:
    """Artifact key and shard of a unit's name, "KEY/SHARD"."""
    key, shard = unit.rsplit("/", 1)
    return key, int(shard)


class PlanUnits:
    """The missing shards of a plan, artifact by artifact, as `cluster.pool.units.Units`. Ids are "KEY/SHARD".

    A unit waits for the same shard of its sources where that is missing too. Besides the plan itself this
    holds one integer a unit; a shard must stay in the plan until its unit has come out.

    Args:
      store: where workers find the store.
      without: ids of units to leave out (those given up before).
    """

    def __init__(self, plan: Plan, store: str, without: Collection[str] = ()) -> None:
        self._store = store
        self._planned = plan.artifacts
        self._shards = [_shards(planned, without) for planned in plan.artifacts]
        self._first = [0, *accumulate(len(shards) for shards in self._shards)]
        self._attrs = [planned.artifact.attrs() for planned in plan.artifacts]
        places = {planned.artifact: place for place, planned in enumerate(plan.artifacts)}
        self._sources = [[places[s] for s in p.artifact.sources() if s in places] for p in plan.artifacts]
        self._keys = [planned.artifact.key for planned in plan.artifacts]

    def __len__(self) -> int:
        return self._first[-1]

    def __getitem__(self, index: int) -> Unit:
        from workflows.compute.tasks import ShardTask

        place, shard = self._at(index)
        planned = self._planned[place]
        task = ShardTask(self._store, self._attrs[place], shard, tuple(planned.missing[shard]))
        return Unit(
            id=f"{self._keys[place]}/{shard}",
            payload=task,
            after=tuple(f"{self._keys[s]}/{shard}" for s in self._waits_for(place, shard)),
            label=f"{planned.artifact.name} {shard + 1}/{planned.num_shards}",
            weight=self._weight(place, shard),
        )

    def after(self, index: int) -> list[int]:
        """Positions of the units the one at `index` waits for."""
        place, shard = self._at(index)
        return [self._first[s] + bisect_left(self._shards[s], shard) for s in self._waits_for(place, shard)]

    def counts(self) -> dict[str, tuple[str, int]]:
        """Name and number of units of each artifact that has any, by key."""
        return {
            p.artifact.key: (p.artifact.name, len(shards))
            for p, shards in zip(self._planned, self._shards, strict=True)
            if len(shards)
        }

    @property
    def weight(self) -> float:
        """Sum of the weights of all units."""
        places = enumerate(self._shards)
        return sum(self._weight(place, shard) for place, shards in places for shard in shards)

    def _at(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"unit {index} of {len(self)}")
        place = bisect_left(self._first, index + 1) - 1
        return place, self._shards[place][index - self._first[place]]

    def _waits_for(self, place: int, shard: int) -> list[int]:
        return [s for s in self._sources[place] if _holds(self._shards[s], shard)]

    def _weight(self, place: int, shard: int) -> float:
        planned = self._planned[place]
        return float(max(planned.image_evaluations, 1) * planned.samples_in(shard))


def _shards(planned: PlannedArtifact, without: Collection[str]) -> array[int]:
    key = planned.artifact.key
    return array("q", sorted(shard for shard in planned.missing if f"{key}/{shard}" not in without))


def _holds(shards: array[int], shard: int) -> bool:
    place = bisect_left(shards, shard)
    return place < len(shards) and shards[place] == shard
