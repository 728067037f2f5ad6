"""Wall time of Ray and the store, against a bare loop that keeps nothing, over the same shards.

Both sides run `ShardWorker.compute` on as many warm worker processes of one thread. The bare side hands shards to
a pool of processes and drops the arrays; the other is what `taba run` does: units through the executor, shards
written, synced and checksummed, receipts in the ledger. Starting the cluster and the workers is not counted on
either side; it is printed.
"""

from __future__ import annotations

import functools
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflows.bench.paired import Comparison, Measurement, Pairs, run_pairs, seconds_text, timed
from workflows.text import bytes_text

if TYPE_CHECKING:
    from cluster.executor import Executor
    from taba_core.spec import Artifact
    from workflows.context import Context
    from workflows.plan import Plan

_WAIT_S = 120.0
# What is computed: name -> artifacts with the variables that are stored.
WORKLOADS = {
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
        from workflows.context import Context
        from workflows.settings import Settings

        settings = Settings(
            num_samples=num_shards * samples, samples_per_shard=samples, num_inference_steps=num_steps
        )
        context = Context(model, "ddim", settings)
        generation = context.generation(num_steps)
        specs = {"generation": generation, "inversion": context.inversion(generation)}
        return cls(context, tuple((specs[kind], names) for kind, names in WORKLOADS[workload].items()))

    @property
    def num_shards(self) -> int:
        """Shards of each artifact."""
        root = self.artifacts[0][0].root()
        return -(-root.num_samples // root.samples_per_shard)


@dataclass
class MemoryStore:
    """Stands in for the store on the bare side: holds the arrays of one shard, by artifact."""

    arrays: dict[str, dict[str, Any]] = field(default_factory=dict)

    def open_artifact(self, artifact: Artifact) -> _MemoryGroup:
        """What reads that artifact's shard."""
        return _MemoryGroup(self.arrays[artifact.key])


@dataclass(frozen=True)
class _MemoryGroup:
    arrays: dict[str, Any]

    def read_shard(self, shard: int, variables: tuple[str, ...]) -> dict[str, Any]:
        return {name: self.arrays[name] for name in variables}


def measure(
    *,
    repeats: int = 5,
    model: str = "photo-mixture",
    num_shards: int = 4,
    samples_per_shard: int | None = None,
    num_steps: int = 50,
    workers: int = 2,
    workloads: tuple[str, ...] = tuple(WORKLOADS),
    make_executor: Callable[[], Executor] | None = None,
) -> Measurement:
    """Time both sides on every workload.

    Args:
      samples_per_shard: None = as many as make a unit last one second on a free core.
      make_executor: Ray with `workers` workers unless given.

    Figures, by workload: "<workload>/ratio", "<workload>/unit_seconds", "<workload>/bytes"; start_seconds.
    """
    from cluster.ray_executor import RayExecutor

    samples = samples_per_shard or samples_for_a_second(model, num_steps)
    rows, figures, starts = [], {}, []
    context = multiprocessing.get_context("spawn")
    executor = make_executor() if make_executor else RayExecutor("local", num_workers=workers)
    try:
        with ProcessPoolExecutor(workers, context, initializer=_start_bare) as pool:
            for workload in workloads:
                work = Work.of(workload, model, num_shards, samples, num_steps)
                seconds: list[float] = []
                bare = timed(functools.partial(run_bare, pool, work, seconds))
                stored = functools.partial(run_stored, executor, work, workers, starts)
                pairs = run_pairs(bare, stored, repeats=repeats)
                rows += _rows(workload, work, pairs, statistics.median(seconds), workers)
                figures[f"{workload}/ratio"] = pairs.ratio
                figures[f"{workload}/unit_seconds"] = statistics.median(seconds)
                figures[f"{workload}/bytes"] = float(_bytes(work))
    finally:
        executor.close()
    figures["start_seconds"] = starts[0]
    later = (
        f", {seconds_text(statistics.median(starts[1:]))} for the workers of a later run"
        if starts[1:]
        else ""
    )
    return Measurement(
        tuple(rows),
        figures,
        (f"not counted: {seconds_text(starts[0])} to start the cluster and its first warm workers{later}",),
    )


def _rows(workload: str, work: Work, pairs: Pairs, unit_seconds: float, workers: int) -> tuple[Any, Any]:
    root = work.artifacts[0][0].root()
    units = work.num_shards * len(work.artifacts)
    return Comparison(
        what=workload,
        n=f"{units} units of {root.samples_per_shard} samples, T={root.num_inference_steps}",
        sides=(f"bare loop, {workers} processes", f"Ray and Zarr, {workers} workers"),
        figures=(f"{seconds_text(unit_seconds)} a unit", bytes_text(_bytes(work))),
        target="<= 1.1 at units >= 1 s",
    ).rows(pairs)


def _bytes(work: Work) -> int:
    from taba_core import schema

    shape = work.context.card.sample_shape
    return sum(schema.bytes_of(artifact, list(names), shape) for artifact, names in work.artifacts)


def samples_for_a_second(model: str, num_steps: int) -> int:
    """Samples of a shard whose generation takes about 1.2 s on one thread, a multiple of 32."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=_start_bare) as pool:
        work = Work.of("images and latents", model, 1, 32, num_steps)
        runs = [pool.submit(_bare_shard, work, 0).result() for _ in range(4)]
    return 32 * math.ceil(1.2 / min(seconds[0] for seconds in runs[1:]))


_bare_worker: Any = None  # of a process of the pool


def _start_bare() -> None:
    from workflows.tasks import ShardWorker

    global _bare_worker
    _bare_worker = ShardWorker()


def _bare_shard(work: Work, shard: int) -> list[float]:
    """Compute one shard of every artifact in memory; seconds of each."""
    store, seconds = MemoryStore(), []
    for artifact, names in work.artifacts:
        begun = time.perf_counter()
        store.arrays[artifact.key] = _bare_worker.compute(store, artifact, shard, names)
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
        from workflows.tasks import ShardWorker

        self.shards = ShardWorker()

    def run(self, payload: Any) -> Any:
        """Run a shard task, or warm up."""
        if not isinstance(payload, _WarmUp):
            return self.shards.run(payload)
        store = MemoryStore()
        for artifact, names in payload.work.artifacts:
            store.arrays[artifact.key] = self.shards.compute(store, artifact, 0, names)  # type: ignore[arg-type]
        place = Path(payload.meeting_place)
        # Threads of one process are workers too.
        (place / f"{os.getpid()}-{id(self)}").touch()
        deadline = time.monotonic() + _WAIT_S
        while len(list(place.iterdir())) < payload.workers:
            if time.monotonic() > deadline:
                raise TimeoutError(f"fewer than {payload.workers} workers started in {_WAIT_S:g} s.")
            time.sleep(0.005)
        return None


def run_stored(executor: Executor, work: Work, workers: int, starts: list[float]) -> float:
    """All shards through the executor into a new store: seconds from warm workers to the last receipt.

    Adds the seconds until all workers were warm to `starts`.

    Raises:
      WorkError: a unit failed.
    """
    from cluster.executor import Resources, Unit
    from taba_core.errors import WorkError
    from taba_core.store import Receipt, Store
    from workflows.engine import build_units, coordinates

    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="taba-bench-") as directory:
        store = Store.open(Path(directory) / "store", mode="a")
        shape = work.context.card.sample_shape
        groups = {
            artifact.key: store.ensure(artifact, names, shape, coordinates(work.context, artifact))
            for artifact, names in work.artifacts
        }
        place = Path(directory) / "warm"
        place.mkdir()
        warm = [Unit(f"warm/{i}", _WarmUp(_small(work), str(place), workers)) for i in range(workers)]
        waiting = {unit.id for unit in warm}
        after = tuple(waiting)
        units = [replace(u, after=(*u.after, *after)) for u in build_units(_plan(work), store)]
        ready = last = begun
        for outcome in executor.execute([*warm, *units], BenchWorker, Resources(num_cpus=1)):
            if outcome.error is not None:
                raise WorkError(f"{outcome.unit.label or outcome.unit.id}: {outcome.error}\n{outcome.trace}")
            if outcome.unit.id in waiting:
                ready = time.perf_counter()
            else:
                groups[outcome.unit.id.split("/")[0]].record(Receipt.from_json(outcome.result))
                last = time.perf_counter()
        starts.append(ready - begun)
        return last - ready


def _small(work: Work) -> Work:
    """The same work on two samples: loads the model and prepares every level of it."""
    root = work.artifacts[0][0].root()
    kinds = {artifact.kind: names for artifact, names in work.artifacts}
    workload = next(name for name, wanted in WORKLOADS.items() if wanted == kinds)
    return Work.of(workload, work.context.model, 1, 2, root.num_inference_steps)


def _plan(work: Work) -> Plan:
    from workflows.plan import Plan, PlannedArtifact

    planned = [
        PlannedArtifact(artifact, list(names), {shard: list(names) for shard in range(work.num_shards)})
        for artifact, names in work.artifacts
    ]
    return Plan(work.context, [], planned)
