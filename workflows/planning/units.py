"""The units of a run. Each is made when it is handed out, so that a hundred thousand of them take no memory."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from itertools import accumulate

from cluster.pool.units import Unit, UnitGroup
from taba_core.artifacts.base import Artifact
from workflows.planning.plan import Plan
from workflows.planning.planned import PlannedArtifact


def parse_unit_id(unit: str) -> tuple[str, int]:
    """Artifact key and shard of a unit's name, "KEY/SHARD"."""
    key, shard = unit.rsplit("/", 1)
    return key, int(shard)


def critical_first(artifacts: Sequence[PlannedArtifact]) -> list[PlannedArtifact]:
    """Artifacts in the order of the work that waits for a shard of them, the longest chain of evaluations first.

    Sources stay before what reads them; what has nothing to wait for it keeps its place among its like.
    """
    chain: dict[Artifact, int] = {}
    for planned in reversed(artifacts):  # sources come before what reads them, so readers come first here
        longest = chain.get(planned.artifact, 0) + planned.sample_evaluations * planned.samples_in(0)
        chain[planned.artifact] = longest
        for source in planned.artifact.sources():
            chain[source] = max(chain.get(source, 0), longest)
    depth = {planned.artifact: planned.artifact.depth for planned in artifacts}
    return sorted(artifacts, key=lambda planned: (-chain[planned.artifact], depth[planned.artifact]))


class PlanUnits:
    """The missing shards of a plan, as `cluster.pool.units.Units`. Ids are "KEY/SHARD", of the first part.

    A unit waits for the units that make the same shard of its sources where that is missing too. Units that most work
    waits for come first. Besides the plan itself this holds one integer a unit; a shard must stay in the plan until its
    unit has come out. Weights are seconds of a device, as the plan estimates them.

    Args:
      store: where workers find the store.
      without: ids of units to leave out (those given up before).
    """

    def __init__(self, plan: Plan, store: str, without: Collection[str] = ()) -> None:
        self._store = store
        self._plan = plan
        self._planned = critical_first(plan.artifacts)
        self._chains = plan.chains
        self._shards = [self._led_by(planned, without) for planned in self._planned]
        self._first = [0, *accumulate(len(shards) for shards in self._shards)]
        self._attrs = {planned.artifact: planned.artifact.attrs() for planned in self._planned}
        self._places = {planned.artifact: place for place, planned in enumerate(self._planned)}
        # A name and a key are hashes of the whole spec: made once, not for every unit.
        self._keys = [planned.artifact.key for planned in self._planned]
        self._names = [planned.artifact.name for planned in self._planned]

    def __len__(self) -> int:
        return self._first[-1]

    def __getitem__(self, index: int) -> Unit:
        from workflows.compute.worker import ShardTask, TaskPart

        place, shard = self._at(index)
        planned = self._planned[place]
        parts = self._chains.parts(planned, shard)
        walks = self._chains.walks_for(parts)
        task = ShardTask(
            self._store,
            tuple(TaskPart(self._attrs[p.artifact], tuple(p.missing[shard]), walks) for p in parts),
            shard,
        )
        more = f" and {len(parts) - 1} more" if len(parts) > 1 else ""
        return Unit(
            id=f"{self._keys[place]}/{shard}",
            payload=task,
            after=tuple(self._id(position) for position in self.after(index)),
            label=f"{self._names[place]}{more} {shard + 1}/{planned.num_shards}",
            weight=self._weight(planned, shard),
        )

    def after(self, index: int) -> list[int]:
        """Positions of the units the one at `index` waits for."""
        place, shard = self._at(index)
        parts = self._chains.parts(self._planned[place], shard)
        own = {part.artifact for part in parts}
        sources = {source for part in parts for source in part.artifact.sources() if source not in own}
        found = {self._position(self._places[source], shard) for source in sources if source in self._places}
        return sorted(position for position in found if position is not None)

    def counts(self) -> dict[str, tuple[str, int]]:
        """Name and number of units of each artifact that names any, by key."""
        return {
            p.artifact.key: (p.artifact.name, len(shards))
            for p, shards in zip(self._planned, self._shards, strict=True)
            if len(shards)
        }

    @cached_property
    def weight(self) -> float:
        """Sum of the weights of all units, seconds; as it was when this was first asked."""
        pairs = zip(self._planned, self._shards, strict=True)
        return sum(self._weight(planned, shard) for planned, shards in pairs for shard in shards)

    def parts(self, unit: str) -> list[PlannedArtifact]:
        """What a unit makes, by its id."""
        key, shard = parse_unit_id(unit)
        return self._chains.parts(self._planned[self._keys.index(key)], shard)

    def _id(self, position: int) -> str:
        place, shard = self._at(position)
        return f"{self._keys[place]}/{shard}"

    def _at(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"unit {index} of {len(self)}")
        place = bisect_left(self._first, index + 1) - 1
        return place, self._shards[place][index - self._first[place]]

    def _position(self, place: int, shard: int) -> int | None:
        """Position of the unit that makes a shard; None if the shard is not missing, or its unit is left out."""
        if shard not in self._planned[place].missing:
            return None
        lead = self._places[self._chains.parts(self._planned[place], shard)[0].artifact]
        found = bisect_left(self._shards[lead], shard)
        held = found < len(self._shards[lead]) and self._shards[lead][found] == shard
        return self._first[lead] + found if held else None

    def _weight(self, planned: PlannedArtifact, shard: int) -> float:
        parts = self._chains.parts(planned, shard)
        made = [(part, part.evaluations_in(shard, self._chains.made_with(part, shard))) for part in parts]
        return max(
            self._plan.compute_seconds(made), self._plan.cost.image_seconds * planned.samples_in(shard)
        )

    def _led_by(self, planned: PlannedArtifact, without: Collection[str]) -> array[int]:
        key = planned.artifact.key
        missing = (shard for shard in planned.missing if self._chains.leads(planned, shard))
        return array("q", sorted(shard for shard in missing if f"{key}/{shard}" not in without))


class JointUnits:
    """The units of several plans in one queue, as `cluster.pool.units.GroupedUnits`: a group is what one model makes.

    Args:
      plans: of different models; store, without: as `PlanUnits`.
      load: of a plan, the seconds in which a worker loads its model.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        store: str,
        without: Collection[str] = (),
        load: Callable[[Plan], float] = lambda plan: 0.0,
    ) -> None:
        self._units = [PlanUnits(plan, store, without) for plan in plans]
        self._loads = [load(plan) for plan in plans]
        self._first = [0, *accumulate(map(len, self._units))]
        # Two plans of one model may ask for the same artifact only where they are one plan.
        self._of_key = {key: units for units in self._units for key in units.counts()}

    def __len__(self) -> int:
        return self._first[-1]

    def __getitem__(self, index: int) -> Unit:
        number, first = self._at(index)
        return self._units[number][index - first]

    def after(self, index: int) -> list[int]:
        """Positions of the units the one at `index` waits for."""
        number, first = self._at(index)
        return [first + position for position in self._units[number].after(index - first)]

    def groups(self) -> list[UnitGroup]:
        """A group for each plan."""
        return [
            UnitGroup(stop, units.weight, load)
            for stop, units, load in zip(self._first[1:], self._units, self._loads, strict=True)
        ]

    def counts(self) -> dict[str, tuple[str, int]]:
        """Name and number of units of each artifact that names any, by key."""
        return {key: counted for units in self._units for key, counted in units.counts().items()}

    @property
    def weight(self) -> float:
        """Sum of the weights of all units, seconds."""
        return sum(units.weight for units in self._units)

    def parts(self, unit: str) -> list[PlannedArtifact]:
        """What a unit makes, by its id."""
        return self._of_key[parse_unit_id(unit)[0]].parts(unit)

    def plan_of(self, unit: str) -> int:
        """The number of the plan that a unit belongs to, by its id."""
        return self._units.index(self._of_key[parse_unit_id(unit)[0]])

    def _at(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"unit {index} of {len(self)}")
        number = bisect_left(self._first, index + 1) - 1
        return number, self._first[number]
