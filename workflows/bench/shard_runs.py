"""The two sides of the overhead benchmark: shards in memory on bare processes, and shards run and stored."""

from __future__ import annotations

import functools
import math
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taba_core.artifacts.layout import Extent
from workflows.text import bytes_text

if TYPE_CHECKING:
    from cluster.pool.executor import Executor, Unit
    from taba_core.artifacts.base import Artifact
    from taba_core.store import ArtifactGroup, Receipt
    from workflows.configuration.context import Context
    from workflows.planning.plan import Plan

_WAIT_S = 120.0
# What is computed: name -> artifacts with the variables that are stored.
WORKLOADS: dict[str, dict[str, tuple[str, ...]]] = {
    "images and latents": {"generation": ("noise", "image", "class_id"), "inversion": ("latent",)},
    "whole sampling paths": {"generation": ("noise", "image", "class_id", "x_t", "eps_t")},
}


@dataclass(frozen=True)
class Work:
    """One workload: artifacts in order, and the context they come from."""

    context: Context
    artifacts: tuple[tuple[Artifact, tuple[str, ...]], ...]

    @classmethod
    def of(cls, workload: str, model: str, num_shards: int, samples: int, num_steps: int) -> Work:
        """The artifacts of a workload, `num_shards` shards of `samples` samples each."""
        from workflows.configuration.context import Context
        from workflows.configuration.settings import Settings

        settings = Settings(
            num_samples=num_shards * samples,
            samples_per_shard=samples,
            batch_size=samples,
            num_inference_steps=num_steps,
        )
        context = Context(model, "ddim", settings)
        generation = context.generation(num_steps)
        specs: dict[str, Artifact] = {"generation": generation, "inversion": context.inversion(generation)}
        return cls(context, tuple((specs[kind], names) for kind, names in WORKLOADS[workload].items()))

    @property
    def num_shards(self) -> int:
        """Shards of each artifact."""
        return self.extent.num_shards

    @property
    def extent(self) -> Extent:
        """Samples of each artifact, and of a shard."""
        settings = self.context.settings
        return Extent(settings.num_samples or 0, settings.samples_per_shard or 0)  # both are set by `of`

    @property
    def num_bytes(self) -> int:
        """Bytes to store."""
        from taba_core.artifacts.layout import bytes_of

        shape = self.context.card.sample_shape
        return sum(bytes_of(artifact, names, self.extent, shape) for artifact, names in self.artifacts)


@dataclass
class Shares:
    """Where the time of the workers went, added up over runs, seconds."""

    compute: float = 0.0
    write: float = 0.0
    wall: float = 0.0

    def add(self, receipt: Receipt) -> None:
        """Add one shard: its receipt says how long computing and writing took."""
        self.compute += receipt.info["compute_seconds"]
        self.write += receipt.seconds

    def note(self, workload: str, byte_count: int, compute_seconds: float) -> str:
        """One line: shares of computing, writing and everything else, and the bytes behind them."""
        rate = bytes_text(byte_count / compute_seconds)
        compute, write = self.compute / self.wall, self.write / self.wall
        return (
            f"{workload}: workers computed {compute:.0%} of the time, wrote {write:.0%}, "
            f"waited {1 - compute - write:.0%}; a second of computing makes {rate}"
        )


def samples_of_a_unit(model: str, num_steps: int, seconds: float, tried: int = 128) -> int:
    """Samples of a shard whose generation takes at least so long on one thread, a multiple of 32."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=start_bare) as pool:
        work = Work.of("images and latents", model, 1, tried, num_steps)
        runs = [pool.submit(_bare_shard, work, 0).result() for _ in range(4)]
    sample_seconds = min(run[0] for run in runs[1:]) / tried
    return 32 * math.ceil(seconds / (32 * sample_seconds))


_bare_worker: Any = None  # of a process of the pool


def start_bare() -> None:
    """Build the worker of a process of the pool."""
    from workflows.compute.worker import ShardWorker

    global _bare_worker
    _bare_worker = ShardWorker()


def _bare_shard(work: Work, shard: int) -> list[float]:
    """Compute one shard of every artifact in memory; seconds of each."""
    seconds = []
    _bare_worker.begin(None)
    for artifact, names in work.artifacts:
        begun = time.perf_counter()
        _bare_worker.compute(artifact, *work.extent.ids(shard), names)
        seconds.append(time.perf_counter() - begun)
    return seconds


def run_bare(pool: ProcessPoolExecutor, work: Work, seconds: list[float]) -> None:
    """All shards on the pool, nothing kept; adds the seconds of every unit to `seconds`."""
    for shard_seconds in pool.map(functools.partial(_bare_shard, work), range(work.num_shards)):
        seconds.extend(shard_seconds)


@dataclass(frozen=True)
class _WarmUp:
    """Payload of a unit that loads the model, then waits until `workers` workers have done so."""

    work: Work
    meeting_place: str
    workers: int


class BenchWorker:
    """A shard worker that can be warmed up and made to wait for the others."""

    def __init__(self) -> None:
        from workflows.compute.worker import ShardWorker

        self.shards = ShardWorker()

    def run(self, payload: Any) -> Any:
        """Run a shard task, or warm up."""
        if not isinstance(payload, _WarmUp):
            return self.shards.run(payload)
        for artifact, names in payload.work.artifacts:
            self.shards.compute(artifact, *payload.work.extent.ids(0), names)
        self.shards.begin(None)
        place = Path(payload.meeting_place)
        # Threads of one process are workers too.
        (place / f"{os.getpid()}-{id(self)}").touch()
        deadline = time.monotonic() + _WAIT_S
        while len(list(place.iterdir())) < payload.workers:
            if time.monotonic() > deadline:
                raise TimeoutError(f"fewer than {payload.workers} workers started in {_WAIT_S:g} s.")
            time.sleep(0.005)
        return None


def run_stored(executor: Executor, work: Work, workers: int, starts: list[float], shares: Shares) -> float:
    """All shards through the executor into a new store: seconds from warm workers to the last receipt.

    Adds the seconds until all workers were warm to `starts`, and where their time went to `shares`.

    Raises:
      WorkError: a unit failed.
    """
    from cluster.pool.executor import Resources
    from taba_core.errors import WorkError
    from taba_core.store import Receipt

    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="taba-bench-") as directory:
        groups, units = stored_units(work, workers, Path(directory))
        ready = last = begun
        for outcome in executor.execute(units, BenchWorker, Resources(num_cpus=1)):
            if outcome.error is not None:
                raise WorkError(f"{outcome.unit.label}: {outcome.error}\n{outcome.trace}")
            if isinstance(outcome.unit.payload, _WarmUp):
                ready = time.perf_counter()
                continue
            for key, made in outcome.result.items():
                receipt = Receipt.from_json(made)
                groups[key].record(receipt)
                shares.add(receipt)
            last = time.perf_counter()
    starts.append(ready - begun)
    shares.wall += workers * (last - ready)
    return last - ready


def stored_units(work: Work, workers: int, directory: Path) -> tuple[dict[str, ArtifactGroup], list[Unit]]:
    """A new store with the artifacts' groups, by key, and the units: warm-ups first, the rest after them."""
    from cluster.pool.executor import Unit
    from taba_core.store import Store
    from workflows.execution.engine import coordinates
    from workflows.planning.units import PlanUnits

    store = Store.open(directory / "store", mode="a")
    shape = work.context.card.sample_shape
    groups = {
        artifact.key: store.ensure(artifact, names, work.extent, shape, coordinates(work.context, artifact))
        for artifact, names in work.artifacts
    }
    place = directory / "warm"
    place.mkdir()
    payload = _WarmUp(_small(work), str(place), workers)
    warm = [Unit(f"warm/{i}", payload, label="warm-up") for i in range(workers)]
    after = tuple(unit.id for unit in warm)
    return groups, [
        *warm,
        *(replace(u, after=(*u.after, *after)) for u in PlanUnits(_plan(work), store.url)),
    ]


def _small(work: Work) -> Work:
    """The same work on two samples: loads the model and prepares every level of it."""
    kinds = {artifact.kind: names for artifact, names in work.artifacts}
    workload = next(name for name, wanted in WORKLOADS.items() if wanted == kinds)
    return Work.of(workload, work.context.model, 1, 4, work.artifacts[0][0].num_steps)


def _plan(work: Work) -> Plan:
    from taba_core.store import MissingShards
    from workflows.planning.plan import Plan
    from workflows.planning.planned import PlannedArtifact

    planned = [
        PlannedArtifact(
            artifact,
            work.extent.num_samples,
            work.extent,
            dict.fromkeys(names, work.num_shards),
            MissingShards((shard, tuple(names)) for shard in range(work.num_shards)),
        )
        for artifact, names in work.artifacts
    ]
    return Plan(work.context, [], planned)
