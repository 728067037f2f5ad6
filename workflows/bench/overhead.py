"""Wall time of Ray and the store, against a bare loop that keeps nothing, over the same shards.

Both sides run `ShardWorker.compute` on as many warm worker processes of one thread. The bare side hands
shards to a pool of processes and drops the arrays; the other is what `taba run` does: units through the
executor, shards written, synced and checksummed, receipts in the ledger. Starting the cluster and the workers
is not counted on either side; it is printed, and so is where the workers' time went.
"""

from __future__ import annotations

import functools
import multiprocessing
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

from workflows.bench.paired import Comparison, Measurement, Pairs, TableRow, run_pairs, seconds_text, timed
from workflows.bench.shard_runs import (
    WORKLOADS,
    Shares,
    Work,
    run_bare,
    run_stored,
    samples_of_a_unit,
    start_bare,
)
from workflows.text import bytes_text

if TYPE_CHECKING:
    from cluster.pool.executor import Executor

UNIT_SECONDS = 2.4  # a little more than the 2 s from which the target counts


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
      samples_per_shard: None = as many as make a unit last `UNIT_SECONDS` on a free core.
      make_executor: Ray with `workers` workers unless given.

    Figures, by workload: "<workload>/ratio", "<workload>/unit_seconds", "<workload>/bytes"; start_seconds.
    """
    from cluster.ray.executor import RayExecutor

    samples = samples_per_shard or samples_of_a_unit(model, num_steps, UNIT_SECONDS)
    rows: list[TableRow] = []
    figures: dict[str, float] = {}
    starts: list[float] = []
    notes: list[str] = []
    context = multiprocessing.get_context("spawn")
    executor = make_executor() if make_executor else RayExecutor("local", num_workers=workers)
    try:
        with ProcessPoolExecutor(workers, context, initializer=start_bare) as pool:
            for workload in workloads:
                work = Work.of(workload, model, num_shards, samples, num_steps)
                seconds: list[float] = []
                shares = Shares()
                bare = timed(functools.partial(run_bare, pool, work, seconds))
                stored = functools.partial(run_stored, executor, work, workers, starts, shares)
                pairs = run_pairs(bare, stored, repeats=repeats)
                rows += _rows(workload, work, pairs, statistics.median(seconds), workers)
                figures[f"{workload}/ratio"] = pairs.ratio
                figures[f"{workload}/unit_seconds"] = statistics.median(seconds)
                figures[f"{workload}/bytes"] = float(work.num_bytes)
                computed = statistics.median(seconds) * work.num_shards * len(work.artifacts)
                notes.append(shares.note(workload, work.num_bytes, computed))
    finally:
        executor.close()
    figures["start_seconds"] = starts[0]
    notes.append(f"not counted: {seconds_text(starts[0])} to start the cluster and its first warm workers")
    if starts[1:]:
        notes[-1] += f", {seconds_text(statistics.median(starts[1:]))} for the workers of a later run"
    return Measurement(tuple(rows), figures, tuple(notes))


def _rows(
    workload: str, work: Work, pairs: Pairs, unit_seconds: float, workers: int
) -> tuple[TableRow, TableRow]:
    units = work.num_shards * len(work.artifacts)
    return Comparison(
        what=workload,
        n=f"{units} units of {work.extent.samples_per_shard} samples, T={work.artifacts[0][0].num_steps}",
        sides=(f"bare loop, {workers} processes", f"Ray and Zarr, {workers} workers"),
        figures=(f"{seconds_text(unit_seconds)} a unit", bytes_text(work.num_bytes)),
        target="<= 1.1 at units >= 1 s",
    ).rows(pairs)
