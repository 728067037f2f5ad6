"""The engine of `taba run`: compute what a plan misses, reduce what studies ask, keep the ledger."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.pool.executor import ClusterError, ClusterLost, Drained, Executor, OtherCode, Outcome, Resources
from taba_core.artifacts.base import Artifact
from taba_core.artifacts.request import Request
from taba_core.errors import UsageError, WorkError
from taba_core.store import ArtifactGroup, Receipt, Store
from taba_core.store.group import LEDGER_DIRECTORY
from workflows.analysis.inputs import Inputs
from workflows.analysis.study import declared_options
from workflows.configuration.context import Context
from workflows.configuration.given_images import images_line
from workflows.configuration.settings import stored_settings
from workflows.execution.session import stop_if_asked
from workflows.execution.watch import Watch
from workflows.planning.plan import Plan, has_result, still_missing
from workflows.planning.planned import PlannedArtifact
from workflows.planning.units import PlanUnits, parse_unit_id

RUN_LOG = "runs.jsonl"
MAX_SETBACKS = 3  # deaths of a private cluster in a row without a finished unit between them


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
    watch: Watch = Watch(),
) -> Report:
    """Carry out a plan: missing shards first, then the studies whose results are not stored yet.

    Args:
      watch: told what happens, and asked before every write whether this process still owns the store.
    Raises:
      FailedUnitsError: units failed for good; studies that do not read them are analysed before.
      WorkError: the disk refuses; what finished is kept and reused next time.
    """
    report, started = Report(on_gpu=resources.num_gpus > 0), time.monotonic()
    failed: FailedUnitsError | None = None
    watch.check()
    groups = {p.artifact: _ensure(store, plan.context, p) for p in plan.artifacts}
    _adopt(plan, groups)
    if plan.units:
        report.units, report.evaluations = plan.units, plan.evaluations_missing
        watch.stage("compute")
        try:
            _compute(plan, store, groups, make_executor, resources, watch)
        except FailedUnitsError as error:
            failed = error  # raised once the studies that can do without these units are done
    report.stages["compute"] = time.monotonic() - started
    incomplete = {planned.artifact for planned in plan.artifacts if planned.missing}
    for study in plan.studies:
        if incomplete.intersection(request.artifact for request in plan.requests[study.name].values()):
            continue
        name = study.result_name(plan.context)
        if has_result(store, name):
            report.reused.append(study.name)
            continue
        stop_if_asked()
        begun = time.monotonic()
        watch.stage(study.name)
        inputs = Inputs(
            store,
            plan.requests[study.name],
            sample_shape=plan.context.card.sample_shape,
            scheduler=scheduler,
            workers=workers,
        )
        result = study.analyse(inputs, plan.context)
        watch.check()
        store.write_result(name, result, result_attrs(study, plan.context, plan.requests[study.name]))
        report.analysed.append(study.name)
        report.stages[study.name] = time.monotonic() - begun
    report.seconds = time.monotonic() - started
    if failed is not None:
        raise failed
    return report


def result_attrs(study: Any, context: Context, requests: Mapping[str, Request]) -> dict[str, Any]:
    """What a stored result says about itself: study, model, settings, conventions, artifacts.

    n and T are those of the generated images: the artifacts say them, a study may ask for fewer than the settings.
    """
    first = next(iter(requests.values()))
    return {
        "study": study.name,
        "study_version": study.version,
        "model": context.name,
        "model_title": context.title,
        "images": images_line(context.given_images),
        "model_spec": context.model_spec.model_dump(mode="json"),
        "method": context.method,
        "n": first.samples,
        "T": next(r.artifact.num_steps for r in requests.values() if r.artifact.num_steps),
        "seed": context.settings.seed,
        "conventions": convention_line(context),
        "settings": stored_settings(context.settings, declared_options([study])),
        "artifacts": {name: r.artifact.name for name, r in requests.items()},
    }


def convention_line(context: Context) -> str:
    """The conventions as one line, printed under every table."""
    c = context.conventions
    first = "" if c.first_time == "one" else f", first_time={c.first_time}"
    profile = "" if context.card.embedded else f", profile={context.model_spec.options['profile']}"
    return (
        f"network_time={c.network_time}, levels={c.levels}, sampling_x0_rule={c.sampling_x0_rule}, "
        f"inversion_x0_rule={c.inversion_x0_rule}, forward_level={c.forward_level}{first}{profile}"
        f"{context.guidance.line}"
    )


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


def _compute(
    plan: Plan,
    store: Store,
    groups: dict[Artifact, ArtifactGroup],
    make_executor: Callable[[], Executor],
    resources: Resources,
    watch: Watch,
) -> None:
    """Run all units; a private cluster that dies under them is started again, as long as there is progress."""
    failures: dict[str, Outcome] = {}
    total, setbacks = plan.units, 0
    while len(units := PlanUnits(plan, store.url, without=failures)):
        left = len(units)
        watch.expect(units)
        try:
            _execute(units, plan, groups, make_executor, resources, watch, failures)
        except ClusterLost as lost:
            setbacks = setbacks + 1 if plan.units == left else 0
            if setbacks >= MAX_SETBACKS:
                raise WorkError(
                    f"{lost} It died {setbacks} times in a row without finishing a unit. What finished is stored; "
                    "see to the machine (memory, disk), then run the same command again."
                ) from None
            watch.note(f"{lost} Starting it again; {plan.units} units left.")
    for group in groups.values():
        group.remove_orphans()  # what lost workers were just writing
    if failures:
        raise FailedUnitsError(_failure_text(list(failures.values()), total))


def _execute(
    units: PlanUnits,
    plan: Plan,
    groups: dict[Artifact, ArtifactGroup],
    make_executor: Callable[[], Executor],
    resources: Resources,
    watch: Watch,
    failures: dict[str, Outcome],
) -> None:
    """One executor's life: record what succeeds, collect what fails."""
    from workflows.compute.worker import ShardWorker

    by_key = {p.artifact.key: (p, groups[p.artifact]) for p in plan.artifacts}
    executor = make_executor()
    watch.executor(executor.describe())
    make_worker = functools.partial(ShardWorker, device="cuda" if resources.num_gpus else "cpu")
    keep_logs = True  # unless nothing went wrong
    try:
        for outcome in executor.execute(units, make_worker, resources, watch.event):
            _, shard = parse_unit_id(outcome.unit.id)
            watch.check()  # before every line in a ledger: the store may be another driver's by now
            if outcome.error is None:
                for key, receipt in outcome.result.items():
                    planned, group = by_key[key]
                    group.record(Receipt.from_json(receipt))
                    planned.missing.done(shard)
            else:
                failures[outcome.unit.id] = outcome
            watch.outcome(outcome)
        keep_logs = watch.saw_losses
    except Drained as drained:
        keep_logs = watch.saw_losses
        raise KeyboardInterrupt(str(drained)) from None
    except ClusterLost:
        raise
    except OtherCode as other:
        raise UsageError(f"{other} What is stored was computed by this code.") from None
    except ClusterError as stop:
        watch.check()  # a store that vanished explains more than what its loss led to
        raise WorkError(str(stop)) from None
    finally:
        if (
            keep_logs and watch.logs is not None and watch.logs.parents[1].is_dir()
        ):  # not of a store that vanished
            getattr(executor, "keep_logs", lambda directory: None)(watch.logs)
        executor.close()


def _failure_text(failures: list[Outcome], total: int) -> str:
    own = [f for f in failures if not (f.error or "").startswith("not run")] or failures
    by_cause: dict[str, list[str]] = {}
    for failed in own:
        cause = (failed.error or "").strip().splitlines()[-1].rstrip(".")
        by_cause.setdefault(cause, []).append(failed.unit.label)
    listed = "; ".join(
        f"{labels[0]}{f' and {len(labels) - 1} more' if labels[1:] else ''}: {cause}"
        for cause, labels in list(by_cause.items())[:3]
    )
    return (
        f"{len(failures)} of {total} units failed ({len(own)} by themselves, the rest wait for them): {listed}. "
        "Everything else is stored; run the same command again to retry only these."
    )


def log_run(store: Store, entry: dict[str, Any]) -> None:
    """Append one line to the store's log of runs (provenance of the report)."""
    (store.place / LEDGER_DIRECTORY / RUN_LOG).append_line(json.dumps(entry, sort_keys=True, default=str))
