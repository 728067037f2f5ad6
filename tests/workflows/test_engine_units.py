"""The units of a plan are made at hand-out; a cluster that dies is replaced; a store that is lost is left alone."""

from __future__ import annotations

import json
import tracemalloc
from typing import ClassVar

import pytest
from engine_runs import fingerprints

from cluster.pool.executor import ClusterLost, Resources
from cluster.pool.local import LocalExecutor
from cluster.pool.units import Units
from taba_core.errors import WorkError
from taba_core.store import Store
from taba_core.store.holder import Holder
from taba_core.store.lease import StoreHeldError, hold
from workflows.analysis.study import find_studies
from workflows.configuration.context import Context
from workflows.configuration.settings import parse_settings
from workflows.execution.engine import MAX_SETBACKS, run_plan
from workflows.execution.watch import Watcher
from workflows.planning.plan import make_plan
from workflows.planning.units import PlanUnits, parse_unit_id

SETTINGS = ["num_samples=12", "samples_per_shard=4", "num_inference_steps=5", "bootstrap_replicates=100"]


def planned(path, settings=SETTINGS, studies=("correlation", "step-error")):
    store = Store.open(path, mode="a")
    context = Context("gaussian", "ddim", parse_settings(list(settings)))
    return make_plan(context, find_studies(list(studies)), store), store


def carry_out(path, make_executor, **options):
    plan, store = planned(path)
    return run_plan(plan, store, make_executor, Resources(), workers=1, scheduler="synchronous", **options)


def test_units_are_the_missing_shards_and_wait_for_the_same_shard_of_their_sources(tmp_path):
    plan, store = planned(tmp_path)
    plan.artifacts[-1].missing.done(1)
    units = PlanUnits(plan, str(store.path))
    assert isinstance(units, Units)
    listed = list(units)
    assert len(listed) == len(units) == plan.units == 3 * len(plan.artifacts) - 1
    ids = [unit.id for unit in listed]
    assert ids == [f"{p.artifact.key}/{shard}" for p in plan.artifacts for shard in sorted(p.missing)]
    for index, unit in enumerate(listed):
        # By position and by name the same; sources come before what reads them.
        assert tuple(ids[position] for position in units.after(index)) == unit.after
        assert all(position < index for position in units.after(index))
        key, shard = parse_unit_id(unit.id)
        (artifact,) = [p.artifact for p in plan.artifacts if p.artifact.key == key]
        assert unit.after == tuple(f"{source.key}/{shard}" for source in artifact.sources())
        assert unit.payload.shard == shard and unit.label == f"{artifact.name} {shard + 1}/3"
    assert units.weight == sum(unit.weight for unit in listed)
    assert sum(count for _, count in units.counts().values()) == len(units)
    with pytest.raises(IndexError):
        units[len(units)]


def test_a_source_that_is_stored_is_not_waited_for_and_units_given_up_are_left_out(tmp_path):
    plan, store = planned(tmp_path)
    first = plan.artifacts[0]
    first.missing.done(0)
    given_up = f"{first.artifact.key}/2"
    units = PlanUnits(plan, str(store.path), without=[given_up])
    assert given_up not in [unit.id for unit in units]
    for unit in units:
        if parse_unit_id(unit.id)[1] == 0:
            assert f"{first.artifact.key}/0" not in unit.after


def test_a_hundred_thousand_units_take_a_few_megabytes(tmp_path):
    # 50,000 shards of 4 samples, generation and inversion: 8 bytes a unit, beside the plan itself.
    settings = ["num_samples=200000", *SETTINGS[1:]]
    plan, store = planned(tmp_path, settings, ("correlation",))
    assert plan.units == 100_000
    tracemalloc.start()
    units = PlanUnits(plan, str(store.path))
    kept, peak = tracemalloc.get_traced_memory()
    assert units[99_999].payload.shard == 49_999
    tracemalloc.stop()
    assert kept < 1.5e6 and peak < 6e6


class Dying(LocalExecutor):
    """A private cluster that dies after so many finished units."""

    lives: ClassVar[list[int]] = []

    def execute(self, units, make_worker, resources, on_event=None):
        left = self.lives.pop(0) if self.lives else None
        for outcome in super().execute(units, make_worker, resources, on_event):
            if left == 0:
                raise ClusterLost("Ray on this machine has died (raylet ended).")
            left = None if left is None else left - 1
            yield outcome


def test_a_private_cluster_that_dies_is_started_again_and_the_bits_are_the_same(tmp_path, monkeypatch):
    carry_out(tmp_path / "calm", lambda: LocalExecutor(1))
    # Between two deaths with nothing finished there is progress, so they do not add up.
    monkeypatch.setattr(Dying, "lives", [2, 0, 0, 1, 0, 0, 3])
    carry_out(tmp_path / "dying", lambda: Dying(1))
    assert Dying.lives == []
    assert fingerprints(tmp_path / "dying") == fingerprints(tmp_path / "calm")


def test_a_cluster_that_dies_again_and_again_ends_the_run_with_one_error(tmp_path, monkeypatch):
    monkeypatch.setattr(Dying, "lives", [0] * 99)
    with pytest.raises(WorkError, match=r"died \(raylet ended\)\. It died 3 times in a row without"):
        carry_out(tmp_path / "store", lambda: Dying(1))
    assert len(Dying.lives) == 99 - MAX_SETBACKS
    monkeypatch.setattr(Dying, "lives", [])
    carry_out(tmp_path / "store", lambda: Dying(1))


def test_a_driver_whose_store_is_taken_over_appends_nothing_more(tmp_path):
    class TakenOver(LocalExecutor):
        def execute(self, *arguments):
            for number, outcome in enumerate(super().execute(*arguments)):
                if number == 2:
                    other = {**Holder.this_process("other").to_json(), "boot": "another machine"}
                    lease.file.write_atomic(json.dumps(other).encode())
                yield outcome

    store = Store.open(tmp_path, mode="a").path
    with (
        hold(store, "mine") as lease,
        pytest.raises(StoreHeldError, match="taken over by run other"),
        Watcher(store, lease, "taba run x") as watch,
    ):
        carry_out(store, lambda: TakenOver(1), watch=watch)
    receipts = sum(f.read_text().count('"receipt"') for f in (store / "_ledger").glob("gaussian-*.jsonl"))
    assert receipts == 2 and lease.file.exists()
    assert (
        json.loads((store / "_ledger" / "status.json").read_text())["state"] == "running"
    )  # the last of ours


def test_logs_of_the_executor_are_kept_after_a_failure_only(tmp_path, monkeypatch):
    class Logging(Dying):
        def keep_logs(self, directory):
            directory.mkdir(parents=True)
            (directory / "raylet.out").write_text("why")

    for name, lives in (("calm", []), ("dying", [1])):
        monkeypatch.setattr(Dying, "lives", lives)
        store = Store.open(tmp_path / name, mode="a").path
        with hold(store, "r1") as lease, Watcher(store, lease, "taba run x") as watch:
            carry_out(store, lambda: Logging(1), watch=watch)
    kept = [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("raylet.out")]
    assert kept == ["dying/_ledger/logs/r1/ray/raylet.out"]
