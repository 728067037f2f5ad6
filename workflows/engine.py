"""The engine of `taba run`: compute what a plan misses, reduce what studies ask, keep the ledger."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cluster.executor import ClusterError, Drained, Executor, Outcome, Resources, Unit
from taba_core.errors import StoreError, WorkError
from taba_core.spec import Artifact
from taba_core.store import ArtifactGroup, Receipt, Store
from taba_core.store.files import append_line
from taba_core.store.group import LEDGER_DIRECTORY
from workflows.context import Context
from workflows.inputs import Inputs
from workflows.plan import Plan, PlannedArtifact
from workflows.progress import progress

RUN_LOG = "runs.jsonl"


class FailedUnitsError(WorkError):
    """Some units failed for good; everything else is stored. Exit code 3."""

    exit_code = 3


@dataclass
class Report:
    """What a run did."""

    units: int = 0
    evaluations: int = 0
    analysed: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    seconds: float = 0.0
    on_gpu: bool = False
    stages: dict[str, float] = field(default_factory=dict)


def run_plan(
    plan: Plan,
    store: Store,
    make_executor: Callable[[], Executor],
    resources: Resources,
    *,
    workers: int,
    scheduler: Any = "threads",
) -> Report:
    """Carry out a plan: missing shards first, then the studies whose results are not stored yet.

    Raises:
      WorkError: the disk refuses, or units failed for good; what finished is kept and reused next time.
    """
    report, started = Report(on_gpu=resources.num_gpus > 0), time.monotonic()
    groups = {p.artifact: _ensure(store, plan.context, p) for p in plan.artifacts}
    _adopt(plan, groups)
    if plan.units:
        report.units, report.evaluations = plan.units, plan.evaluations_missing
        _compute(plan, store, groups, make_executor, resources)
    report.stages["compute"] = time.monotonic() - started
    for study in plan.studies:
        name = study.result_name(plan.context)
        if _is_stored(store, name):
            report.reused.append(study.name)
            continue
        begun = time.monotonic()
        inputs = Inputs(
            store,
            study.requests(plan.context),
            sample_shape=plan.context.card.sample_shape,
            scheduler=scheduler,
            workers=workers,
        )
        result = study.analyse(inputs, plan.context)
        store.write_result(name, result, result_attrs(study, plan.context))
        report.analysed.append(study.name)
        report.stages[study.name] = time.monotonic() - begun
    report.seconds = time.monotonic() - started
    return report


def _is_stored(store: Store, name: str) -> bool:
    """Whether a result is there and whole; a damaged one is analysed again."""
    try:
        return store.read_result(name) is not None
    except StoreError:
        return False


def result_attrs(study: Any, context: Context) -> dict[str, Any]:
    """What a stored result says about itself: study, model, settings, conventions, artifacts."""
    return {
        "study": study.name,
        "study_version": study.version,
        "model": context.name,
        "model_title": context.card.title,
        "model_spec": context.model_spec.model_dump(mode="json"),
        "method": context.method,
        "n": context.num_samples,
        "T": context.num_steps(study.paper_steps),
        "seed": context.settings.seed,
        "conventions": context.convention_line(),
        "settings": context.settings.model_dump(mode="json"),
        "artifacts": {name: r.artifact.name for name, r in study.requests(context).items()},
    }


def _ensure(store: Store, context: Context, planned: PlannedArtifact) -> ArtifactGroup:
    artifact = planned.artifact
    return store.ensure(
        artifact,
        planned.variables,
        context.card.sample_shape,
        coordinates(context, artifact),
        decoded_shape=context.decoded_shape,
    )


def coordinates(context: Context, artifact: Artifact) -> dict[str, Any]:
    """Coordinates along `step` (row l = level l of the sampling grid): timestep and alpha_bar."""
    grid = context.grid(artifact.root().num_inference_steps)
    return {"timestep": grid.timesteps, "alpha_bar": grid.alpha_bar[1:]}


def _adopt(plan: Plan, groups: dict[Artifact, ArtifactGroup]) -> None:
    """Take over shards that were written but not receipted (the driver died in between)."""
    for planned in plan.artifacts:
        if planned.missing:
            groups[planned.artifact].adopt()
            planned.missing = groups[planned.artifact].missing(planned.variables)


def unit_id(artifact: Artifact, shard: int) -> str:
    """Name of a unit: artifact key and shard."""
    return f"{artifact.key}/{shard}"


def build_units(plan: Plan, store: Store) -> list[Unit]:
    """One unit a missing shard; a unit waits for the same shard of its sources if that is missing too."""
    from workflows.tasks import ShardTask

    pending = {unit_id(p.artifact, shard) for p in plan.artifacts for shard in p.missing}
    units = []
    for planned in plan.artifacts:
        artifact = planned.artifact
        for shard, variables in sorted(planned.missing.items()):
            after = [unit_id(source, shard) for source in artifact.sources()]
            units.append(
                Unit(
                    id=unit_id(artifact, shard),
                    payload=ShardTask(str(store.path), artifact.attrs(), shard, tuple(variables)),
                    after=tuple(u for u in after if u in pending),
                    label=f"{artifact.name} {shard + 1}/{planned.num_shards}",
                    weight=float(max(artifact.num_evaluations(), 1) * planned.samples_in(shard)),
                )
            )
    return units


def _compute(
    plan: Plan,
    store: Store,
    groups: dict[Artifact, ArtifactGroup],
    make_executor: Callable[[], Executor],
    resources: Resources,
) -> None:
    from workflows.tasks import ShardWorker

    units = build_units(plan, store)
    by_key = {artifact.key: group for artifact, group in groups.items()}
    failures: list[Outcome] = []
    executor = make_executor()
    device = "cuda" if resources.num_gpus else "cpu"
    try:
        with progress(len(units), sum(u.weight for u in units)) as show:
            make_worker = functools.partial(ShardWorker, device=device)
            for outcome in executor.execute(units, make_worker, resources):
                if outcome.error is None:
                    receipt = Receipt.from_json(outcome.result)
                    by_key[outcome.unit.id.split("/")[0]].record(receipt)
                else:
                    failures.append(outcome)
                show(outcome)
    except Drained as drained:
        raise KeyboardInterrupt(str(drained)) from None
    except ClusterError as stop:
        raise WorkError(str(stop)) from None
    finally:
        executor.close()
    if failures:
        raise FailedUnitsError(_failure_text(failures, len(units)))


def _failure_text(failures: list[Outcome], total: int) -> str:
    own = [f for f in failures if not (f.error or "").startswith("not run")] or failures
    listed = "; ".join(
        f"{f.unit.label}: {(f.error or '').strip().splitlines()[-1].rstrip('.')}" for f in own[:3]
    )
    return (
        f"{len(failures)} of {total} units failed ({len(own)} by themselves, the rest wait for them): {listed}. "
        "Everything else is stored; run the same command again to retry only these."
    )


def log_run(store: Store, entry: dict[str, Any]) -> None:
    """Append one line to the store's log of runs (provenance of the report)."""
    append_line(store.path / LEDGER_DIRECTORY / RUN_LOG, json.dumps(entry, sort_keys=True, default=str))
