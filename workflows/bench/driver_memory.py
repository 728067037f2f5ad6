"""Peak memory of the driver, from a hundred units to a hundred thousand: it must not grow with them.

Each size runs in a process of its own, as `taba run` does: plan, store, lease, queue, pool, ledger, event log and
status are the real ones, and only the computing is left out: one worker in the calling thread hands back the receipt
of its shard. Half of the units are images, half their latents, each waiting for its image. What is measured is how
far the peak of resident memory (VmHWM) rises from the plan to the last receipt.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from taba_core.errors import WorkError
from workflows.bench.paired import Measurement, TableRow
from workflows.launch import inline_program
from workflows.text import bytes_text, count_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster.pool.events import Event
    from cluster.pool.executor import Outcome, Resources
    from cluster.pool.units import Units
    from workflows.compute.worker import ShardTask
    from workflows.planning.plan import Plan

SIZES = (100, 1_000, 10_000, 100_000)


def measure(*, repeats: int = 3, sizes: tuple[int, ...] = SIZES) -> Measurement:
    """Peak growth for every size, medians over `repeats` processes.

    Figures, by size: "<size>/bytes"; growth, of the largest size over the smallest.
    """
    found = {size: [_in_a_process(size) for _ in range(repeats)] for size in sizes}
    medians = {size: median(runs) for size, runs in found.items()}
    growth = medians[sizes[-1]] - medians[sizes[0]]
    rows = [
        TableRow(
            "peak of the driver",
            f"{count_text(size)} units",
            "whole driver",
            bytes_text(medians[size]),
            f"{bytes_text(min(runs))} to {bytes_text(max(runs))}",
            figure=f"{(medians[size] - medians[sizes[0]]) / size:.0f} B a unit" if size != sizes[0] else "",
            target="<= 10 MB more" if size == sizes[-1] else "",
        )
        for size, runs in found.items()
    ]
    figures = {f"{size}/bytes": value for size, value in medians.items()} | {"growth": growth}
    return Measurement(
        tuple(rows), figures, (f"growth from {sizes[0]} to {sizes[-1]} units: {bytes_text(growth)}",)
    )


class Receipts:
    """A worker that computes nothing and hands back the receipt its shard would have."""

    def run(self, task: ShardTask) -> dict[str, Any]:
        """Receipt of the task's shard."""
        from taba_core.store import FileRecord, Receipt

        record = FileRecord(f"c.{task.shard}.0.0.0", 4096, task.shard)
        return {
            part.attrs["key"]: Receipt(
                task.shard, dict.fromkeys(part.variables, record), 0.01, "node:1"
            ).to_json()
            for part in task.parts
        }


class WithoutComputing:
    """The local executor in the calling thread, with `Receipts` in place of the worker it is given."""

    def __init__(self) -> None:
        from cluster.pool.local import LocalExecutor

        self._executor = LocalExecutor()

    def describe(self) -> str:
        """The local executor's description."""
        return self._executor.describe()

    def execute(
        self,
        units: Units,
        make_worker: Callable[[], Any],
        resources: Resources,
        tell: Callable[[Event], None],
    ) -> Iterator[Outcome]:
        """Outcomes of the units."""
        return self._executor.execute(units, Receipts, resources, tell)

    def close(self) -> None:
        """Close the local executor."""
        self._executor.close()


def peak_growth(size: int) -> int:
    """Bytes by which the peak of this process rises while it plans and records that many units."""
    # A file system in memory where there is one: two synced lines a unit are not what is measured.
    in_memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=in_memory) as folder:
        _drive(Path(folder) / "small", 10)  # what every run needs is loaded
        before = _peak()
        _drive(Path(folder) / "store", size)
        return _peak() - before


def _drive(folder: Path, size: int) -> None:
    from cluster.pool.executor import Resources
    from taba_core.store import Store
    from workflows.analysis.study import find_studies
    from workflows.configuration.context import Context
    from workflows.configuration.settings import Settings
    from workflows.execution.engine import run_plan
    from workflows.execution.session import driving
    from workflows.planning.plan import make_plan

    store = Store.open(folder, mode="a")
    settings = Settings(num_samples=size // 2, samples_per_shard=1, num_inference_steps=2)
    with driving(store.place) as watch:
        # Images and latents; the study itself would find no files.
        plan = make_plan(Context("gaussian", "ddim", settings), find_studies(["correlation"]), store)
        plan.studies.clear()
        _check_units(plan, size)
        run_plan(plan, store, WithoutComputing, Resources(), workers=1, watch=watch)
        _check_units(plan, 0)


def _check_units(plan: Plan, wanted: int) -> None:
    if plan.units != wanted:
        raise WorkError(
            f"the plan has {plan.units} units where {wanted} were expected; the benchmark is broken."
        )


def _peak() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def _in_a_process(size: int) -> int:
    code = f"from workflows.bench.driver_memory import peak_growth; print(peak_growth({size}))"
    done = subprocess.run(inline_program(code), capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])
