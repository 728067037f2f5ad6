"""Meaning never depends on the machine: any executor, worker count, order of shards, or kill gives the same bits."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.pool.executor import Resources
from cluster.pool.local import LocalExecutor
from taba_core.store import Store
from workflows.analysis.study import find_studies, read_settings
from workflows.configuration.context import Context
from workflows.execution.engine import run_plan
from workflows.planning.plan import make_plan

# 40 samples in shards of 16: the last shard is short. T=10 keeps it quick; every study runs.
SETTINGS = [
    "num_samples=40", "samples_per_shard=16", "num_inference_steps=10", "forward_steps=1,2",
    "bootstrap_replicates=100", "model.num_components_per_photo=2", "model.rank=8",
    "inversion_steps=5,10", "long_steps=20", "long_forward_steps=1,2", "mapping_steps=5",
    "methods=ddim,forward-2-exact,noise-initialised,edict",
]  # fmt: skip


class LastFirst(LocalExecutor):
    """Hands units over in the opposite order, as far as their dependencies allow."""

    def execute(self, units, make_worker, resources, on_event=None):
        return super().execute(list(reversed(units)), make_worker, resources, on_event)


def run(path, make_executor, settings=SETTINGS, studies=("paper",), scheduler="threads", workers=2):
    context = Context("photo-mixture", "ddim", read_settings(list(settings)))
    store = Store.open(path, mode="a")
    plan = make_plan(context, find_studies(list(studies)), store)
    return run_plan(plan, store, make_executor, Resources(num_cpus=1), workers=workers, scheduler=scheduler)


def fingerprints(path: Path) -> dict[str, str]:
    """Hash of every file that carries data or meaning; the ledger and the report tell of the run itself.

    The workers of a killed driver live on for a moment and rename the files that they were writing. A file that has
    lost the name under which it was listed is left out.
    """
    found = {}
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.relative_to(path).parts[0] not in ("_ledger", "report"):
            with contextlib.suppress(FileNotFoundError):
                found[str(file.relative_to(path))] = hashlib.blake2b(file.read_bytes()).hexdigest()
    return found


def ray_executor(workers):
    from cluster.ray.executor import RayExecutor

    return lambda: RayExecutor(address=None, num_workers=workers)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "store"
    run(path, lambda: LocalExecutor(workers=1), workers=1)
    return fingerprints(path)


def test_a_run_stores_every_artifact_and_every_result(reference):
    groups = {Path(name).parts[0] for name in reference if len(Path(name).parts) > 1}
    kinds = ("generation", "inversion", "reconstruction", "step-predictions", "regions")
    results = ("model-card", "correlation", "regions", "location", "step-error", "fix", "methods")
    for kind in (*kinds, *results):
        assert any(g.startswith(f"photo-mixture-{kind}-") for g in groups), kind


def test_two_threads_give_the_same_bits(reference, tmp_path):
    run(tmp_path / "s", lambda: LocalExecutor(workers=2))
    assert fingerprints(tmp_path / "s") == reference


def test_shards_in_another_order_and_another_scheduler_give_the_same_bits(reference, tmp_path):
    run(tmp_path / "s", lambda: LastFirst(workers=1), scheduler="synchronous", workers=1)
    assert fingerprints(tmp_path / "s") == reference


@pytest.mark.cluster
@pytest.mark.parametrize("workers", [1, 2])
def test_ray_gives_the_same_bits(reference, tmp_path, workers, monkeypatch):
    monkeypatch.setattr(
        "workflows.analysis.inputs.BYTES_FOR_WORKERS", 1
    )  # reductions are made by workers too
    run(tmp_path / "s", ray_executor(workers))
    assert fingerprints(tmp_path / "s") == reference


def test_a_second_run_computes_nothing(tmp_path):
    run(tmp_path / "s", lambda: LocalExecutor(workers=2), studies=("correlation",))

    def refuse():
        raise AssertionError("nothing is missing, so no executor may be made")

    again = run(tmp_path / "s", refuse, studies=("correlation",))
    assert (again.units, again.analysed, again.reused) == (0, [], ["correlation"])


def test_a_study_added_later_computes_only_what_it_needs(tmp_path):
    first = run(tmp_path / "s", lambda: LocalExecutor(workers=2), studies=("correlation",))
    second = run(tmp_path / "s", lambda: LocalExecutor(workers=2), studies=("correlation", "regions"))
    # 3 shards each: generation and inversion first; then only the masks.
    assert (first.units, second.units) == (6, 3)


LONG = ["num_samples=192", "samples_per_shard=32", "num_inference_steps=50", "bootstrap_replicates=100"]
STUDIES = ("correlation", "step-error")


def start(path, executor="ray"):
    sets = [part for s in LONG for part in ("--set", s)]
    command = [sys.executable, "-m", "workflows", "run", *STUDIES, "--store", str(path), "--no-report"]
    return subprocess.Popen(
        [*command, "--executor", executor, "--workers", "2", *sets], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def receipts(path):
    ledgers = [f for f in path.glob("_ledger/*.jsonl") if f.name != "runs.jsonl"]
    return sum(f.read_text().count('"receipt"') for f in ledgers)


def wait_for_receipts(path, process, count, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if receipts(path) >= count:
            return
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"no {count} receipts in time: {process.communicate()[0]}")


def descendants(pid: int) -> list[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    found, frontier = [], [pid]
    while frontier:
        children = [child for child, parent in parents.items() if parent in frontier]
        found += children
        frontier = children
    return found


def busy_actor(driver, seconds=120) -> int:
    """A Ray worker process that is computing a unit: Ray shows the running method in the process title."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and driver.poll() is None:
        for process in descendants(driver.pid):
            try:
                title = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if title.startswith("ray::RayWorker.compute"):
                return process
        time.sleep(0.02)
    driver.kill()
    raise AssertionError(f"no worker was ever computing: {driver.communicate()[0]}")


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_driver_then_worker_killed_mid_shard_and_resumed_gives_the_same_bits(tmp_path):
    run(tmp_path / "undisturbed", lambda: LocalExecutor(workers=2), settings=LONG, studies=STUDIES)
    path = tmp_path / "disturbed"
    driver = start(path)
    wait_for_receipts(path, driver, 1)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    assert fingerprints(path) != fingerprints(tmp_path / "undisturbed")

    driver = start(path)
    os.kill(busy_actor(driver), signal.SIGKILL)
    output, _ = driver.communicate(timeout=240)
    assert driver.returncode == 0, output
    assert fingerprints(path) == fingerprints(tmp_path / "undisturbed")
