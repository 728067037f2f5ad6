"""The engine of `taba run`: compute what plans miss, reduce what studies ask, keep the ledger."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from cluster.pool.executor import Executor, Resources
from taba_core.artifacts.base import Artifact
from taba_core.store import ArtifactGroup, Store
from taba_core.store.group import LEDGER_DIRECTORY
from workflows.analysis.run_log import RUN_LOG
from workflows.configuration.context import Context
from workflows.execution.analyses import Analyses
from workflows.execution.computing import Computing
from workflows.execution.done import Report
from workflows.execution.shared_executor import SharedExecutor
from workflows.execution.watch import Watch
from workflows.planning.plan import Plan, still_missing
from workflows.planning.planned import PlannedArtifact


def run_plan(
    plan: Plan,
    store: Store,
    make_executor: Callable[[], Executor],
    resources: Resources,
    *,
    workers: int,
    scheduler: Any = "threads",
    watch: Watch = Watch(),
) -> Report:
    """Carry out one plan; see `run_plans`.

    Raises:
      FailedUnitsError: units failed for good; studies that do not read them are analysed before.
    """
    (done,) = run_plans(
        [plan], store, make_executor, resources, workers=workers, scheduler=scheduler, watch=watch
    )
    if done.failed is not None:
        raise done.failed
    return done


def run_plans(
    plans: Sequence[Plan],
    store: Store,
    make_executor: Callable[[], Executor],
    resources: Resources,
    *,
    workers: int,
    scheduler: Any = "threads",
    watch: Watch = Watch(),
) -> list[Report]:
    """Carry out plans of different models: their missing shards in one queue, and the studies that are not stored yet.

    Where workers hold devices, a study is analysed by the driver as soon as its shards are there, beside the computing;
    else afterwards, because the cores are in use. Reductions of much data are made by workers of the same executor,
    where it has any beyond this process.

    Args:
      watch: told what happens, and asked before every write whether this process still owns the store.
    Returns:
      What was done of each plan; units that failed for good are an error in its report.
    Raises:
      WorkError: the disk refuses; what finished is kept and reused next time.
    """
    on_gpu, started = resources.num_gpus > 0, time.monotonic()
    watch.check()
    groups: dict[Artifact, ArtifactGroup] = {}
    for plan in plans:
        own = prepare(plan, store)
        _adopt(plan, own)
        groups |= own
    reports = [Report(plan.units, plan.evaluations_missing, on_gpu=on_gpu) for plan in plans]
    executor = SharedExecutor(make_executor, resources)
    analyses = Analyses(
        plans, reports, store, watch, scheduler=scheduler, workers=workers, mapper=executor.mapper
    )
    with contextlib.closing(executor), analyses.running(beside=on_gpu):
        if any(report.units for report in reports):
            watch.stage("compute")
            run = Computing(plans, store, groups, watch, analyses.complete)
            for report, failed in zip(reports, run.carry_out(executor, resources), strict=True):
                report.failed = failed
        for report in reports:
            report.stages = {"compute": time.monotonic() - started, **report.stages}
        analyses.finish()
    for report in reports:
        report.seconds = time.monotonic() - started
    return reports


def prepare(plan: Plan, store: Store) -> dict[Artifact, ArtifactGroup]:
    """Make the groups of a plan, as far as they are not there: workers write into them."""
    return {planned.artifact: _ensure(store, plan.context, planned) for planned in plan.artifacts}


def _ensure(store: Store, context: Context, planned: PlannedArtifact) -> ArtifactGroup:
    artifact = planned.artifact
    return store.ensure(
        artifact,
        planned.variables,
        planned.extent,
        context.card.sample_shape,
        coordinates(context, artifact),
        decoded_shape=context.decoded_shape,
        first_shards=planned.first_shards,
        samples_asked=planned.samples,
    )


def coordinates(context: Context, artifact: Artifact) -> dict[str, Any]:
    """Coordinates along `step` (row l = level l of the artifact's own grid): timestep and alpha_bar."""
    if not artifact.num_steps:
        return {}
    grid = context.grid(artifact.num_steps)
    return {"timestep": grid.timesteps, "alpha_bar": grid.alpha_bar[1:]}


def _adopt(plan: Plan, groups: dict[Artifact, ArtifactGroup]) -> None:
    """Take over shards that were written but not receipted (the driver died in between); clear half-written files."""
    for planned in plan.artifacts:
        if planned.missing:
            group = groups[planned.artifact]
            group.remove_orphans()  # no worker of ours runs yet
            group.adopt()
            planned.missing = still_missing(group, planned)


def log_run(store: Store, entry: dict[str, Any]) -> None:
    """Append one line to the store's log of runs (provenance of the report)."""
    (store.place / LEDGER_DIRECTORY / RUN_LOG).append_lines([json.dumps(entry, sort_keys=True, default=str)])
