"""`taba run`: from what was asked to plans, their execution and the last lines printed."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.ray.code import code_of
from taba_core.errors import UsageError, WorkError
from taba_core.models.base import card_with_options
from taba_core.store import Store
from taba_core.store.address import is_remote
from workflows.analysis.study import declared_options
from workflows.configuration.numerics import numerics_line
from workflows.configuration.prompt_list import prompt_note
from workflows.configuration.settings import stored_settings
from workflows.execution.done import FailedUnitsError, Report
from workflows.execution.session import DRAIN_FILE, driving
from workflows.execution.training import TrainingHost, train_missing
from workflows.launch import PACKAGES
from workflows.planning.budget import over_budget
from workflows.planning.drift_gate import check_drift
from workflows.planning.jobs import Asked, check_all, notes_of
from workflows.planning.plan import Plan
from workflows.text import bytes_text, count_text, duration_text

if TYPE_CHECKING:
    from cluster.pool.executor import Executor, Outcome, Resources
    from workflows.execution.watch import Watch

    # How to make an executor, what each worker holds, how many workers.
    Chosen = tuple[Callable[[], Executor], Resources, int]

EXECUTORS = ("ray", "local", "inline")


def run_studies(
    parts: list[Asked],
    *,
    address: str | None,
    executor: str,
    workers: int | None,
    report: bool,
    gpus_per_worker: float | None = None,
    device: str | None = None,
    metrics: bool = False,
) -> None:
    """Carry out `taba run` and print the headline table."""
    from workflows.report.from_store import print_headline, write_store_report

    code = code_digests()  # read now: files that are edited during the run are not what it runs
    # Refused before the store is touched; a cluster is asked once for what it has.
    on_cpu = {card_with_options(part.model, None).embedded for part in parts}
    chosen = {
        embedded: choose_executor(
            executor, address, workers, embedded=embedded, gpus_per_worker=gpus_per_worker, device=device
        )
        for embedded in on_cpu
    }
    if False in chosen and chosen[False][1].num_gpus:
        parts = [replace(part, device="cuda") for part in parts]
    check_store(executor, parts[0].store)
    observe = _metrics(executor) if metrics else None
    jobs, opened = check_all(parts, write=True)
    assert opened is not None
    for note in (*notes_of(jobs), *check_drift(jobs, opened)):
        print(note, flush=True)
    with driving(opened.place, observe) as watch:
        for job in jobs:
            embedded = job.context.card.embedded
            host = TrainingHost(executor, address, workers, chosen[embedded][1])
            if train_missing(job.trainings, opened, host, watch.stage):
                watch.check()
        plans = [job.plan(opened) for job in jobs]
        if refusal := over_budget(plans, parts[0].store, parts[0].budget):
            raise UsageError(f"{refusal} Nothing was computed.")
        if not is_remote(opened.url):
            check_room(plans, opened.path)
        _run_each(plans, opened, chosen, watch, code)
        if report and not is_remote(opened.url):
            watch.stage("report")
            index, failures = write_store_report(opened.path, None, force=False)
    if is_remote(opened.url):
        print(f"\nreport: taba report --store {opened.url} --output FOLDER")
    elif report:
        print_headline(opened.path, list(dict.fromkeys(study.name for job in jobs for study in job.studies)))
        print(f"\nreport: {index}")
        for failure in failures:  # the numbers were asked for and are there: no error of the run
            print(f"report: {failure.line}", file=sys.stderr)


def _run_each(
    plans: list[Plan], store: Store, chosen: Mapping[bool, Chosen], watch: Watch, code: dict[str, str]
) -> None:
    """All models, in one queue as far as they can be; units of one that failed for good do not keep the others back."""
    failed: dict[str, FailedUnitsError] = {}
    for together in rounds(plans, chosen):
        reports = run_together(together, store, chosen[together[0].context.card.embedded], watch, code)
        for plan, done in zip(together, reports, strict=True):
            if done.failed is not None:
                failed[plan.context.title] = done.failed
    if len(plans) == 1 and failed:
        raise failed.popitem()[1]
    if failed:
        raise FailedUnitsError(" ".join(f"{title}: {error}" for title, error in failed.items()))


def rounds(plans: Sequence[Plan], chosen: Mapping[bool, Chosen]) -> list[list[Plan]]:
    """Plans that may share a queue: they use the same workers, and none makes what another makes too."""
    found: list[tuple[Any, list[Plan], set[str]]] = []
    for plan in plans:
        _, *workers = chosen[plan.context.card.embedded]
        makes = {planned.artifact.key for planned in plan.artifacts if planned.missing}
        # Behind a round that makes some of it a plan finds it made, so it may only join the last one of its workers.
        own = [entry for entry in found if entry[0] == workers][-1:]
        if own and not own[0][2] & makes:
            own[0][1].append(plan)
            own[0][2].update(makes)
        else:
            found.append((workers, [plan], makes))
    return [together for _, together, _ in found]


def run_one(plan: Plan, store: Store, chosen: Chosen, watch: Watch, code: dict[str, str]) -> None:
    """Carry out one plan; see `run_together`.

    Raises:
      FailedUnitsError: units failed for good.
    """
    (done,) = run_together([plan], store, chosen, watch, code)
    if done.failed is not None:
        raise done.failed


def run_together(
    plans: Sequence[Plan], store: Store, chosen: Chosen, watch: Watch, code: dict[str, str]
) -> list[Report]:
    """Compute and analyse what plans miss, say what it is and took, and write a line for each to the store's log.

    Args:
      chosen: as `choose_executor` gives it.
      code: digests of the packages that run, for the log.
    Returns:
      What was done of each plan, units that failed for good among it.
    Raises:
      WorkError: the disk or the cluster refuses.
    """
    from workflows.execution.engine import log_run, run_plans

    started, clock = datetime.now(UTC), time.monotonic()
    make_executor, resources, workers = chosen
    for plan in plans:
        print(
            f"{plan.context.title}, n={plan.context.num_samples}: {plan.shards_missing} of "
            f"{sum(p.num_shards for p in plan.artifacts)} shards to compute in {plan.units} units "
            f"({count_text(plan.evaluations_missing)} network evaluations, {bytes_text(plan.bytes_total)} in all).",
            flush=True,
        )
        if line := numerics_line(plan.context, "cuda" if resources.num_gpus else "cpu"):
            print(line, flush=True)
        if note := prompt_note(plan.context.prompts):
            print(f"prompts: {note}", flush=True)
    reports = run_plans(plans, store, make_executor, resources, workers=workers, watch=watch)
    for plan, done in zip(plans, reports, strict=True):
        if done.failed is not None:
            continue
        if done.units or done.analysed:
            watch.check()
            log_run(store, provenance(plan, done, started, code))
        whose = f"{plan.context.title}: " if len(plans) > 1 else ""
        print(
            f"{whose}computed {done.units} units, analysed {len(done.analysed)} studies, reused {len(done.reused)}: "
            f"{duration_text(time.monotonic() - clock)}.",
            flush=True,
        )
    return reports


def _metrics(executor: str) -> Callable[[Outcome, int], None]:
    if executor != "ray":
        raise UsageError(f"--metrics are Ray's; they cannot go with --executor {executor}.")
    from cluster.ray.metrics import RunMetrics

    return RunMetrics()


def check_store(executor: str, store: str) -> None:
    """Refuse (UsageError) a store that the workers of this executor cannot write to."""
    if executor == "ray" and store.startswith("memory://"):
        raise UsageError(
            f"--store {store}: it is in the memory of this process, where Ray's workers cannot write, and gone with "
            "it; use a directory or s3://BUCKET/PREFIX."
        )


def check_room(plans: list[Plan], directory: Path) -> None:
    """Refuse a run whose missing shards cannot fit the file system of the store.

    Raises:
      WorkError: less space (or, where the file system counts them, fewer files) free than the run will write.
    """
    wanted, files = sum(plan.bytes_missing for plan in plans), sum(plan.files_missing for plan in plans)
    system = os.statvfs(directory)
    free, free_files = system.f_bavail * system.f_frsize, system.f_favail
    if wanted > free:
        raise WorkError(
            f"store {directory}: the run will write {bytes_text(wanted)}, but {bytes_text(free)} are free there. "
            "Free space, use another --store, or a smaller --set num_samples. Nothing was computed."
        )
    if system.f_files and files > free_files:
        raise WorkError(
            f"store {directory}: the run will write {count_text(files)} files, but {count_text(free_files)} inodes "
            "are free there. Use another --store, or a larger --set samples_per_shard. Nothing was computed."
        )


def choose_executor(
    name: str,
    address: str | None,
    workers: int | None,
    *,
    embedded: bool,
    gpus_per_worker: float | None = None,
    device: str | None = None,
) -> Chosen:
    """A factory of the executor (so that nothing starts if there is nothing to do), resources, worker count."""
    from workflows.execution.resources import worker_resources

    if name not in EXECUTORS:
        raise UsageError(f"--executor {name}: use ray (the default), local or inline.")
    if name != "ray" and address is not None:
        raise UsageError(f"--address names a Ray cluster; it cannot go with --executor {name}.")
    if name == "inline" and workers not in (None, 1):
        raise UsageError("--executor inline has one worker; use --executor local for several threads.")
    cores = 1 if name == "inline" else workers or _usable_cores()
    resources = worker_resources(
        name, address, embedded=embedded, gpus_per_worker=gpus_per_worker, device=device
    )
    drain_file = os.environ.get(DRAIN_FILE)

    def make() -> Executor:
        if name == "ray":
            from cluster.ray.executor import RayExecutor

            return RayExecutor(address=address, num_workers=workers, drain_file=drain_file, packages=PACKAGES)
        from cluster.pool.local import LocalExecutor

        return LocalExecutor(workers=cores, drain_file=drain_file)

    return make, resources, cores


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def code_digests() -> dict[str, str]:
    """Package -> 12 hexadecimal digits of its contents, of the code that this process and its workers run."""
    return {package["name"]: package["digest"] for package in code_of(PACKAGES)["packages"]}


def provenance(plan: Plan, done: Any, started: datetime, code: dict[str, str]) -> dict[str, Any]:
    """One line of the store's log: command, code, versions, machine, times, counts, settings."""
    from importlib.metadata import version

    from workflows.execution.results import convention_line

    packages = ("taba", "torch", "numpy", "zarr", "xarray", "dask", "ray", "scipy")
    return {
        "command": "taba " + " ".join(sys.argv[1:]),
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(done.seconds, 1),
        "stages": {name: round(seconds, 2) for name, seconds in done.stages.items()},
        "model": plan.context.name,
        "studies": [s.name for s in plan.studies],
        "units": done.units,
        "network_evaluations": done.evaluations,
        "bytes": plan.bytes_total,
        "settings": stored_settings(plan.context.settings, declared_options(plan.studies)),
        "conventions": convention_line(plan.context),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "code": code,
        "device": "gpu" if done.on_gpu else "cpu",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
