"""How long a plan takes on a cluster: stages in order of dependency, waves of units, the allocation to ask for.

Durations come from step times under the profile that is asked (`taba_core.models.step_times`), so they are estimates of
computing alone; what they leave out (failures, uneven nodes, a busy file system) is what `taba simulate` adds, through
the scheduler's own code.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from taba_core.artifacts.training import Training
from taba_core.models.cards import Card
from workflows.planning.chains import Chains
from workflows.planning.plan import Plan
from workflows.planning.planned import PlannedArtifact

START_SECONDS = 60.0  # Ray on many nodes, Python from a shared file system
LOAD_BYTES_PER_SECOND = 5e8  # weights from a shared file system, every worker its own copy
LOAD_SECONDS = 15.0  # a worker process importing torch
WRITE_BYTES_PER_SECOND = 2e8  # one worker: encode, checksum, write, sync
REDUCE_BYTES_PER_SECOND = 5e8  # one node: the reduction of a study reads what it needs once
MARGIN = 1.25  # of the time limit over the estimate
DRAIN_SECONDS = 60  # schedulers may signal a minute early
TRAINED_IMAGE_EVALUATIONS = 3  # a backward pass takes as long as two forward passes
MOST_RANKS = 8  # that share a training where the user gives no number: more make small batches smaller

# The parts of a unit, and the shard it makes of each.
_Unit = tuple[list[PlannedArtifact], int]


@dataclass(frozen=True)
class Machines:
    """The workers a plan is spread over.

    Attributes:
      nodes: of the allocation.
      workers_per_node: one a GPU, or as many as share them.
    """

    nodes: int = 1
    workers_per_node: int = 4

    @property
    def workers(self) -> int:
        """Workers in all."""
        return self.nodes * self.workers_per_node


@dataclass(frozen=True)
class Stage:
    """The units whose first part has one depth in the dependency graph; they need nothing of each other.

    Attributes:
      kinds: kinds of the artifacts that the units make.
      units: units of work.
      longest: seconds of the longest unit.
      device_seconds: seconds of all units together.
      waves: ceil(units / workers).
      seconds: wall time on the workers, units handed out in order to whoever is free.
    """

    kinds: str
    units: int
    longest: float
    device_seconds: float
    waves: int
    seconds: float


@dataclass(frozen=True)
class Timetable:
    """A plan on machines: start, stages one after another, reductions.

    The real scheduler starts a unit as soon as the same shard of its sources is there, so stages overlap and the
    sum of stages is an upper estimate; `busy_seconds / workers` and the longest chain are lower ones. Networks that are
    trained first take `train_seconds`, one training after another.
    """

    machines: Machines
    stages: tuple[Stage, ...]
    load_seconds: float
    reduce_seconds: float
    train_seconds: float = 0.0

    @property
    def longest(self) -> float:
        """Seconds of the longest unit of the plan."""
        return max((stage.longest for stage in self.stages), default=0.0)

    @property
    def seconds(self) -> float:
        """Wall time: start, load, every stage after the one before, reductions."""
        if not self.stages:
            return self.reduce_seconds
        made = self.train_seconds + self.load_seconds + sum(s.seconds for s in self.stages)
        return START_SECONDS + made + self.reduce_seconds

    @property
    def signal_seconds(self) -> int:
        """How long before the time limit the scheduler should send USR1: twice the longest unit and a minute."""
        return max(300, math.ceil(2 * self.longest) + DRAIN_SECONDS)

    @property
    def time_limit(self) -> int:
        """Minutes to ask for: the estimate with a margin and the drain, in whole half hours."""
        return 30 * math.ceil((MARGIN * self.seconds + self.signal_seconds) / 1800)


def unit_seconds(
    plan: Plan, chains: Chains, parts: Sequence[PlannedArtifact], shard: int
) -> tuple[float, float]:
    """Seconds one worker computes and writes a unit: the same shard of these parts, one after another."""
    made = [(part, part.evaluations_in(shard, chains.made_before(parts, part))) for part in parts]
    stored = sum(plan.bytes_of(part) * part.samples_in(shard) / part.num_samples for part in parts)
    return plan.compute_seconds(made), stored / WRITE_BYTES_PER_SECOND


def load_seconds(plan: Plan) -> float:
    """Seconds until a worker is ready: process, libraries, weights."""
    return LOAD_SECONDS + weights_seconds(plan)


def weights_seconds(plan: Plan) -> float:
    """Seconds in which a worker that is there loads the weights of a plan's model."""
    card = plan.context.card
    weights = 0 if card.embedded else max(card.weights.bytes, 2 * card.num_parameters)
    return weights / LOAD_BYTES_PER_SECOND


def timetable(plan: Plan, machines: Machines, trainings: Iterable[Training] = ()) -> Timetable:
    """Stages of the missing units on the machines, after the trainings that are to do."""
    chains = plan.chains
    depths: dict[int, list[_Unit]] = {}
    for planned in plan.artifacts:
        for shard in planned.missing:
            parts = chains.parts(planned, shard)
            if parts[0] is planned:
                depths.setdefault(planned.artifact.depth, []).append((parts, shard))
    stages = tuple(_stage(plan, chains, depths[depth], machines.workers) for depth in sorted(depths))
    train = sum(
        train_hours(spec, plan.context.card) * 3600 / ranks_for(spec.batch_size, machines.workers)
        for spec in trainings
    )
    return Timetable(machines, stages, load_seconds(plan), plan.bytes_total / REDUCE_BYTES_PER_SECOND, train)


def train_hours(spec: Training, card: Card) -> float:
    """Device hours of a training on the card's measured step time: three evaluations an image, forward and backward."""
    return spec.images(spec.steps) * TRAINED_IMAGE_EVALUATIONS * card.cost.image_seconds / 3600


def ranks_for(batch_size: int, places: int, asked: int | None = None) -> int:
    """Processes that share a training: as many as asked or as there are places, and a divisor of the batch."""
    most = max(1, min(asked or MOST_RANKS, places, batch_size))
    return max(count for count in range(1, most + 1) if batch_size % count == 0)


def _stage(plan: Plan, chains: Chains, units: list[_Unit], workers: int) -> Stage:
    # A worker writes one unit while it computes the next, so a unit takes the longer of the two.
    seconds = [max(unit_seconds(plan, chains, parts, shard)) for parts, shard in units]
    return Stage(
        kinds=", ".join(sorted({part.artifact.kind for parts, _ in units for part in parts})),
        units=len(seconds),
        longest=max(seconds),
        device_seconds=math.fsum(seconds),
        waves=-(-len(seconds) // workers),
        seconds=list_schedule(seconds, workers),
    )


def list_schedule(seconds: Iterable[float], workers: int) -> float:
    """Wall time of independent units handed out in order to whichever of the workers is free first."""
    free = [0.0] * workers
    for duration in seconds:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)
