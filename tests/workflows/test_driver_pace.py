"""The driver of a large cluster on a slow disk: outcomes stored together, flat memory, studies beside the computing."""

from __future__ import annotations

import os
import threading
import time
import tracemalloc
from collections import Counter

import pytest

from cluster.pool.backend import Answer, Node, Reply
from cluster.pool.drive import drive
from cluster.pool.executor import Resources
from cluster.pool.limits import Limits
from cluster.pool.local import LocalExecutor
from cluster.pool.pool import Pool
from cluster.pool.queued import QueuedExecutor
from taba_core.artifacts.base import from_attrs
from taba_core.errors import UsageError
from taba_core.store import Store
from taba_core.store.lease import Lease
from workflows.analysis.study import find_studies, read_settings
from workflows.bench.driver_memory import Receipts
from workflows.configuration.context import Context
from workflows.execution import analyses, run
from workflows.execution.engine import run_plan, run_plans
from workflows.execution.session import driving
from workflows.execution.watch import Watch
from workflows.planning.plan import make_plan

FSYNC_S = 0.005
WORKERS = 100


class NeverStops:
    reason = None


class Instant:
    """Workers whose units are done the moment they are given; what has come meanwhile comes at once."""

    prefix, overlap = "w", True

    def __init__(self):
        self._node, self._answers, self._worker = Node("n", "n", {"CPU": float(WORKERS)}), [], Receipts()

    def now(self):
        return time.monotonic()

    def nodes(self):
        return [self._node]

    def start(self, worker, node):
        self._answers.append(Answer(worker, "", Reply()))

    def give(self, worker, unit):
        self._answers.append(Answer(worker, unit.id, Reply(self._worker.run(unit.payload))))

    def poll(self, timeout):
        came, self._answers = self._answers, []
        return came

    def stop(self, worker):
        pass


class Instantly(QueuedExecutor):
    """A cluster that computes nothing, under the real pool, queue and loop."""

    def __init__(self):
        super().__init__(retry_delay=1.0)

    def describe(self):
        return "workers that compute nothing"

    def close(self):
        pass

    def _execute(self, pending, make_worker, resources, on_event):
        backend = Instant()
        pool = Pool(backend, Resources(), None, Limits(), on_event=on_event)
        yield from drive(pending, pool, backend, NeverStops(), on_event)


@pytest.fixture
def slow_disk(monkeypatch):
    """A disk whose fsync takes 5 ms more; counts them, and looks at the lease."""
    counts, fsync, check = Counter(), os.fsync, Lease.check

    def slow(handle):
        counts["fsync"] += 1
        time.sleep(FSYNC_S)
        fsync(handle)

    def looked(lease):
        counts["lease"] += 1
        check(lease)

    monkeypatch.setattr(os, "fsync", slow)
    monkeypatch.setattr(Lease, "check", looked)
    return counts


def record(folder, units):
    """Seconds in which that many units, generation and inversion, are handed out and put into the ledger."""
    store = Store.open(folder, mode="a")
    settings = read_settings([f"num_samples={units // 2}", "samples_per_shard=1", "num_inference_steps=2"])
    with driving(store.place) as watch:
        plan = make_plan(Context("gaussian", "ddim", settings), find_studies(["correlation"]), store)
        plan.studies.clear()  # it would find no files
        assert plan.units == units
        begun = time.perf_counter()
        run_plan(plan, store, Instantly, Resources(), workers=1, watch=watch)
        seconds = time.perf_counter() - begun
        assert plan.units == 0
    return seconds


def test_a_driver_records_five_hundred_outcomes_a_second_on_a_slow_disk(tmp_path, slow_disk):
    units = 2000
    seconds = record(tmp_path / "store", units)
    assert units / seconds >= 500
    receipts = [len(group.ledger.receipts()) for group in Store.open(tmp_path / "store").artifacts()]
    assert receipts == [units // 2] * 2
    # One look at the lease and a sync of each of two ledgers for the outcomes of a hundred workers.
    assert slow_disk["lease"] < units / WORKERS * 2 + 50
    assert slow_disk["fsync"] < units / WORKERS * 4 + 100


def test_its_memory_does_not_grow_with_what_it_has_recorded(tmp_path):
    def peak(units):
        tracemalloc.start()
        record(tmp_path / str(units), units)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(200)  # what every run loads
    few, many = peak(200), peak(1200)
    assert (
        many - few < 1000 * 200
    )  # tables of some tens of bytes a unit; an outcome alone takes more than that


STUDIES = ("correlation", "step-error")
SETTINGS = ["num_samples=8", "samples_per_shard=4", "num_inference_steps=4", "bootstrap_replicates=100"]


def plans_of(store, models=("gaussian",), studies=STUDIES):
    return [
        make_plan(Context(model, "ddim", read_settings(SETTINGS)), find_studies(list(studies)), store)
        for model in models
    ]


def stored(path):
    return {
        file.relative_to(path): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and "_ledger" not in file.parts
    }


def carry_out(path, *, gpus=0.0, watch=Watch(), **options):
    store = Store.open(path, mode="a")
    plans = plans_of(store, **options)
    return run_plans(
        plans,
        store,
        lambda: LocalExecutor(1),
        Resources(num_gpus=gpus),
        workers=1,
        scheduler="synchronous",
        watch=watch,
    )


@pytest.fixture
def on_cpu(monkeypatch):
    """Workers that say they hold devices, and compute on the CPU."""
    from workflows.compute import worker

    original = worker.ShardWorker.__init__
    monkeypatch.setattr(worker.ShardWorker, "__init__", lambda self, device="cpu": original(self, "cpu"))


def test_where_workers_hold_devices_a_study_is_analysed_while_units_are_still_to_come(
    tmp_path, on_cpu, monkeypatch
):
    analysed_in = {}

    class Seen(Watch):
        def outcome(self, outcome):
            if outcome.unit.label.startswith("gaussian-inversion") and not beside:
                # The model card reads the images alone: it is analysed although latents are still to come.
                beside.append(ready.wait(60))

    ready, beside = threading.Event(), []
    analyse = analyses.Analyses._analyse

    def noted(self, task, *, announce):
        analysed_in[task.study.name] = threading.current_thread().name
        analyse(self, task, announce=announce)
        ready.set()

    monkeypatch.setattr(analyses.Analyses, "_analyse", noted)
    studies = ("model-card", "correlation")
    (done,) = carry_out(tmp_path / "beside", gpus=1, studies=studies, watch=Seen())
    assert set(analysed_in.values()) == {"taba-analyses"} and beside == [True]
    assert sorted(done.analysed) == ["correlation", "model-card"]
    carry_out(tmp_path / "after", studies=studies)
    assert analysed_in["correlation"] == "MainThread"
    assert stored(tmp_path / "beside") == stored(tmp_path / "after")


def test_a_study_that_fails_beside_the_computing_ends_the_run_once_the_units_are_stored(
    tmp_path, on_cpu, monkeypatch
):
    def broken(self, inputs, context):
        raise UsageError("the study broke")

    monkeypatch.setattr(type(find_studies(["correlation"])[0]), "analyse", broken)
    with pytest.raises(UsageError, match="the study broke"):
        carry_out(tmp_path / "store", gpus=1)
    store = Store.open(tmp_path / "store")
    assert all(not group.missing() for group in store.artifacts())
    monkeypatch.undo()
    (done,) = carry_out(tmp_path / "store")
    assert done.units == 0 and "correlation" in done.analysed


def test_models_in_one_queue_store_the_bits_that_each_stores_alone(tmp_path):
    models = ("gaussian", "photo-adm")
    together = carry_out(tmp_path / "one", models=models, studies=("correlation",))
    assert [done.units for done in together] == [4, 4] and all(
        done.analysed == ["correlation"] for done in together
    )
    for model in models:
        carry_out(tmp_path / "two", models=(model,), studies=("correlation",))
    assert stored(tmp_path / "one") == stored(tmp_path / "two")


def test_plans_share_a_queue_where_they_use_the_same_workers_and_make_nothing_twice(tmp_path):
    store = Store.open(tmp_path, mode="a")
    gaussian, mixture, network = plans_of(store, ("gaussian", "photo-mixture", "photo-adm"), ("correlation",))
    cpu, gpu = (None, Resources(), 2), (None, Resources(num_gpus=1), 2)
    assert run.rounds([gaussian, network, mixture], {True: cpu, False: gpu}) == [
        [gaussian, mixture],
        [network],
    ]
    assert run.rounds([gaussian, network], {True: cpu, False: cpu}) == [[gaussian, network]]
    (again,) = plans_of(store, ("gaussian",), ("correlation",))
    assert run.rounds([gaussian, again, mixture], {True: cpu}) == [[gaussian], [again, mixture]]


def test_units_that_most_work_waits_for_come_first(tmp_path):
    from workflows.planning.units import PlanUnits

    settings = [*SETTINGS, "inversion_steps=2,8", "more-steps.own_path=off"]
    context = Context("gaussian", "ddim", read_settings(settings))
    plan = make_plan(context, find_studies(["more-steps"]))
    made = [from_attrs(dict(unit.payload.parts[0].attrs)) for unit in PlanUnits(plan, "nowhere")]
    kinds, steps = [artifact.kind for artifact in made], [artifact.num_steps for artifact in made]
    assert kinds[:2] == ["generation"] * 2 and kinds[2:6] == ["inversion"] * 4
    assert steps[2:6] == [8, 8, 2, 2] and kinds[6:] == ["regions"] * 2
