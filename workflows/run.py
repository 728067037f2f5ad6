"""`taba plan` and `taba run`: from what a user typed to a plan, its execution and the last lines printed."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taba_core.errors import UsageError, WorkError
from taba_core.models.base import card_with_options
from taba_core.models.weights import status
from taba_core.store import Store
from workflows.context import Context
from workflows.plan import Plan, make_plan
from workflows.session import driving
from workflows.settings import parse_settings
from workflows.study import Study, find_studies
from workflows.text import bytes_text, count_text, duration_text, print_table

if TYPE_CHECKING:
    from cluster.executor import Executor, Resources


@dataclass(frozen=True)
class Asked:
    """What a user typed: study names, store, model, method, `--set` texts, and weights in place of the fetched ones."""

    studies: list[str]
    store: str
    model: str
    method: str
    assignments: list[str]
    weights: str | None = None


def prepare(asked: Asked, *, write: bool) -> tuple[Context, list[Study], Store | None]:
    """Everything that can be refused is refused here, before any work starts.

    Raises:
      UsageError: unknown names or impossible values. StoreError: a store that is not taba's, or not this version's.
    """
    chosen = find_studies(asked.studies)
    context = Context(asked.model, asked.method, parse_settings(asked.assignments), asked.weights)
    check_method(context)
    for study in chosen:
        study.requests(context)
    opened = None
    if write:
        # A model that cannot run here is refused before the store is touched.
        context.check_runnable()
        opened = Store.open(asked.store, mode="a")
    elif Path(asked.store).exists():
        opened = Store.open(asked.store, mode="r")
    return context, chosen, opened


def check_method(context: Context) -> None:
    """Refuse an unknown inversion method or option before any work."""
    from taba_core.diffusion.inversion import inversion_method_named

    inversion_method_named(context.method, **context.settings.method_options)


def print_plan(asked: Asked) -> None:
    """Print the plan of the asked studies against a store, if there is one."""
    context, chosen, opened = prepare(asked, write=False)
    plan = make_plan(context, chosen, opened)
    where = asked.store if opened is not None else f"{asked.store} (does not exist yet)"
    print(f"{plan.context.card.title}: {', '.join(s.name for s in plan.studies)}; store {where}\n")
    if status(plan.context.card).startswith("missing") and plan.context.weights is None:
        print(f"weights: {status(plan.context.card)}\n")
    rows = [
        (
            p.artifact.name,
            " ".join(p.variables),
            f"{p.num_shards - len(p.missing)}/{p.num_shards}",
            count_text(p.evaluations),
            count_text(p.evaluations_missing),
            f"{plan.hours(p.evaluations_missing):.2f}",
            bytes_text(plan.bytes_of(p)),
        )
        for p in plan.artifacts
    ]
    total = (
        "total",
        "",
        "",
        count_text(plan.evaluations),
        count_text(plan.evaluations_missing),
        f"{plan.hours(plan.evaluations_missing):.2f}",
        bytes_text(plan.bytes_total),
    )
    header = ("artifact", "variables", "shards done", "NFE", "NFE to do", "device-hours", "bytes")
    print_table(header, [*rows, total])
    cost = plan.context.card.cost
    unit = "GPU-hours" if not plan.context.card.embedded else "CPU-hours (one core)"
    print(
        f"\n{count_text(plan.evaluations_missing)} network evaluations (image-NFE) to do = "
        f"{plan.hours(plan.evaluations_missing):.2f} {unit} at {cost.step_seconds:g} s per step of "
        f"{cost.batch_size} images ({cost.measured_on}); {plan.units} units; "
        f"{bytes_text(plan.bytes_total)} in {sum(p.num_shards * len(p.variables) for p in plan.artifacts)} shard "
        f"files; about {bytes_text(plan.peak_memory)} of memory per worker."
    )


def run_studies(
    asked: Asked, *, address: str | None, executor: str, workers: int | None, report: bool
) -> None:
    """Carry out `taba run` and print the headline table."""
    from workflows.engine import log_run, run_plan
    from workflows.reporting import print_headline, write_store_report

    started, clock = datetime.now(UTC), time.monotonic()
    embedded = card_with_options(asked.model, None).embedded
    make_executor, resources, workers = choose_executor(executor, address, workers, embedded=embedded)
    context, chosen, opened = prepare(asked, write=True)
    assert opened is not None
    with driving(opened.path) as watch:
        plan = make_plan(context, chosen, opened)
        check_room(plan, opened.path)
        print(
            f"{plan.context.card.title}, n={plan.context.num_samples}: {plan.units} of "
            f"{sum(p.num_shards for p in plan.artifacts)} units to compute "
            f"({count_text(plan.evaluations_missing)} network evaluations, {bytes_text(plan.bytes_total)} in all).",
            flush=True,
        )
        done = run_plan(plan, opened, make_executor, resources, workers=workers, watch=watch)
        if done.units or done.analysed:
            log_run(opened, provenance(plan, done, started))
        print(
            f"computed {done.units} units, analysed {len(done.analysed)} studies, reused {len(done.reused)}: "
            f"{duration_text(time.monotonic() - clock)}.",
            flush=True,
        )
        if report:
            watch.stage("report")
            index = write_store_report(opened.path, None, force=False)
    if report:
        print_headline(opened.path)
        print(f"\nreport: {index}")


def check_room(plan: Plan, directory: Path) -> None:
    """Refuse a run whose missing shards cannot fit the file system of the store.

    Raises:
      WorkError: less space (or, where the file system counts them, fewer files) free than the run will write.
    """
    wanted, files = plan.bytes_missing, plan.files_missing
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
    name: str, address: str | None, workers: int | None, *, embedded: bool
) -> tuple[Callable[[], Executor], Resources, int]:
    """A factory of the executor (so that nothing starts if there is nothing to do), resources, worker count."""
    from cluster.executor import Resources

    cores = workers or _usable_cores()
    # The embedded models are exact on a CPU and must give the same bits everywhere: they never move to a GPU.
    resources = Resources(num_cpus=1, num_gpus=1 if _has_gpu() and not embedded else 0)
    if name == "local":
        if address is not None:
            raise UsageError("--address names a Ray cluster; it cannot go with --executor local.")
        from cluster.local import LocalExecutor

        return (lambda: LocalExecutor(workers=cores)), resources, cores
    if name == "ray":

        def make() -> Executor:
            from cluster.ray_executor import RayExecutor

            return RayExecutor(address=address, num_workers=workers)

        return make, resources, cores
    raise UsageError(f"--executor {name}: use ray (the default) or local.")


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _has_gpu() -> bool:
    # The driver answers without importing torch: a run that computes nothing should not pay for it.
    return shutil.which("nvidia-smi") is not None and os.environ.get("CUDA_VISIBLE_DEVICES", "all") not in (
        "",
        "-1",
    )


def provenance(plan: Plan, done: Any, started: datetime) -> dict[str, Any]:
    """One line of the store's log: command, versions, machine, times, counts, settings."""
    from importlib.metadata import version

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
        "settings": plan.context.settings.model_dump(mode="json"),
        "conventions": plan.context.convention_line(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "device": "gpu" if done.on_gpu else "cpu",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
