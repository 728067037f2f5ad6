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
from workflows.compute.workbench import Workbench
from workflows.configuration.context import Context
from workflows.configuration.settings import parse_settings
from workflows.execution.computing import MAX_SETBACKS
from workflows.execution.engine import run_plan
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


def kinds_of(unit):
    return [part.attrs["kind"] for part in unit.payload.parts]


def by_kind(plan):
    return {p.artifact.kind: p for p in plan.artifacts}


CHAIN = ["generation", "regions", "step-predictions", "step-errors"]


def test_a_unit_makes_everything_that_needs_the_path_it_walks_and_the_rest_waits_for_it(tmp_path):
    plan, store = planned(tmp_path)
    units = PlanUnits(plan, str(store.path))
    assert isinstance(units, Units)
    listed, of = list(units), by_kind(plan)
    # 15 missing shards in 6 units: the inversion needs no path.
    assert len(listed) == len(units) == plan.units == 6 and plan.shards_missing == 15
    assert [(kinds_of(unit), unit.payload.shard) for unit in listed] == [
        *((CHAIN, shard) for shard in range(3)),
        *((["inversion"], shard) for shard in range(3)),
    ]
    ids, names = [unit.id for unit in listed], {kind: p.artifact.name for kind, p in of.items()}
    for shard in range(3):
        chain, inversion = listed[shard], listed[3 + shard]
        assert chain.id == f"{of['generation'].artifact.key}/{shard}" and chain.after == ()
        assert inversion.id == f"{of['inversion'].artifact.key}/{shard}" and inversion.after == (chain.id,)
        assert chain.label == f"{names['generation']} and 3 more {shard + 1}/3"
        assert inversion.label == f"{names['inversion']} {shard + 1}/3"
        # Every part says what is stored of it, and all of a chain that the path stays in memory.
        stored = {part.attrs["kind"]: part.variables for part in chain.payload.parts}
        assert stored["generation"] == ("noise", "image", "class_id", "x_t", "eps_t")
        assert stored["regions"] == ("region",) and stored["step-predictions"] == ("eps_hat",)
        assert stored["step-errors"] == ("entries", "error", "magnitude", "u", "uu", "v", "vv")
        assert {part.keeps_path for part in chain.payload.parts} == {True}
        assert {part.keeps_path for part in inversion.payload.parts} == {False}
        assert [part.artifact for part in units.parts(chain.id)] == [of[kind].artifact for kind in CHAIN]
    for index, unit in enumerate(listed):
        # By position and by name the same; sources come before what reads them.
        assert tuple(ids[position] for position in units.after(index)) == unit.after
        assert all(position < index for position in units.after(index))
    # A chain: 5 steps of the path, 5 predictions; an inversion: 5. Four samples each.
    evaluations = [unit.weight / plan.cost.image_seconds for unit in listed]
    assert evaluations == pytest.approx([40.0] * 3 + [20.0] * 3)
    assert units.weight == pytest.approx(sum(unit.weight for unit in listed))
    assert units.weight == pytest.approx(plan.evaluations_missing * plan.cost.image_seconds)
    assert units.counts() == {
        of["generation"].artifact.key: (names["generation"], 3),
        of["inversion"].artifact.key: (names["inversion"], 3),
    }
    with pytest.raises(IndexError):
        units[len(units)]


def test_what_lies_between_the_images_and_a_row_of_their_path_is_made_in_the_same_unit(tmp_path):
    plan, store = planned(tmp_path, studies=("correlation", "location", "step-error", "fix"))
    units = list(PlanUnits(plan, str(store.path)))
    between = ["generation", "inversion", "regions", "step-predictions", "path-distances", "step-errors"]
    assert [kinds_of(unit) for unit in units[:3]] == [between] * 3
    # The plain inversion is in the chain, so its reconstruction waits for that; the fixed ones wait for the images.
    chained = {part.attrs["key"] for part in units[0].payload.parts}
    inversions = [p.artifact for p in plan.artifacts if p.artifact.kind == "inversion"]
    (plain,) = [artifact for artifact in inversions if artifact.key in chained]
    assert plain.forward_steps == 0 and len(inversions) > 1
    for unit in units[3:]:
        key, shard = parse_unit_id(unit.id)
        (artifact,) = [p.artifact for p in plan.artifacts if p.artifact.key == key]
        assert len(unit.payload.parts) == 1
        expected = {
            units[shard].id if source.key in chained else f"{source.key}/{shard}"
            for source in artifact.sources()
        }
        assert set(unit.after) == expected


def test_without_rows_of_the_path_each_shard_is_a_unit_that_waits_for_its_sources(tmp_path):
    plan, store = planned(tmp_path, studies=("correlation", "regions"))
    plan.artifacts[-1].missing.done(1)
    units = PlanUnits(plan, str(store.path))
    listed = list(units)
    assert len(listed) == len(units) == plan.units == plan.shards_missing == 3 * len(plan.artifacts) - 1
    assert [unit.id for unit in listed] == [
        f"{p.artifact.key}/{shard}" for p in plan.artifacts for shard in sorted(p.missing)
    ]
    for unit in listed:
        key, shard = parse_unit_id(unit.id)
        (artifact,) = [p.artifact for p in plan.artifacts if p.artifact.key == key]
        assert unit.after == tuple(f"{source.key}/{shard}" for source in artifact.sources())
        assert unit.label == f"{artifact.name} {shard + 1}/3"
        (part,) = unit.payload.parts
        assert part.attrs == artifact.attrs() and not part.keeps_path


def test_a_walk_of_more_levels_than_a_worker_keeps_weighs_what_preparing_them_takes(tmp_path):
    from taba_core.models.photo_mixture import MAX_LEVELS

    def weights(steps):
        asked = ["num_samples=16", "samples_per_shard=16", f"num_inference_steps={steps}"]
        context = Context("photo-mixture", "ddim", parse_settings(asked))
        plan = make_plan(context, find_studies(["correlation"]), Store.open(tmp_path / str(steps), mode="a"))
        assert context.card.cost.levels_kept == MAX_LEVELS
        return plan.cost.image_seconds, [unit.weight for unit in PlanUnits(plan, "nowhere")]

    # A generation and an inversion of 16 images, T evaluations of each; 25 ms a level where there are more than 64.
    image_seconds, short = weights(64)
    assert short == pytest.approx(2 * [16 * 64 * image_seconds])
    image_seconds, long = weights(65)
    assert long == pytest.approx(2 * [65 * (16 * image_seconds + 0.025)])


def test_what_is_stored_is_in_no_unit_and_not_waited_for_and_units_given_up_are_left_out(tmp_path):
    plan, store = planned(tmp_path)
    of = by_kind(plan)
    of["generation"].missing.done(0)
    of["regions"].missing.done(0)
    of["step-errors"].missing.done(1)
    of["step-predictions"].missing.done(2)
    given_up = f"{of['generation'].artifact.key}/2"
    units = list(PlanUnits(plan, str(store.path), without=[given_up]))
    # Shard 0: the path is walked again for the two that need it. Shard 1: no rows, but predictions need the path
    # and not the masks, which are a unit of their own then. Shard 2 was given up.
    assert sorted((kinds_of(unit), unit.payload.shard) for unit in units) == [
        (["generation", "step-predictions"], 1),
        (["inversion"], 0), (["inversion"], 1), (["inversion"], 2),
        (["regions"], 1),
        (["step-predictions", "step-errors"], 0),
    ]  # fmt: skip
    (first,) = [unit for unit in units if unit.payload.shard == 1 and kinds_of(unit)[0] == "generation"]
    assert {unit.after for unit in units if unit.payload.shard == 1} == {(), (first.id,)}
    assert {unit.after for unit in units if unit.payload.shard != 1} == {()}


def test_a_lost_variable_is_made_again_alone(tmp_path):
    carry_out(tmp_path, lambda: LocalExecutor(1))
    plan, store = planned(tmp_path)
    assert plan.units == 0
    before = fingerprints(tmp_path)
    places = {group.artifact.kind: group.path for group in store.artifacts()}
    (places["generation"] / "x_t" / "c.1.0.0.0.0").unlink()
    (places["regions"] / "region" / "c.2.0.0").unlink()
    plan, _ = planned(tmp_path)
    units = list(PlanUnits(plan, str(store.path)))
    assert [(kinds_of(unit), [part.variables for part in unit.payload.parts]) for unit in units] == [
        (["generation"], [("x_t",)]),
        (["regions"], [("region",)]),
    ]
    # A path is 5 evaluations of 4 samples, a mask none.
    assert plan.evaluations_missing == 20
    carry_out(tmp_path, lambda: LocalExecutor(1))
    assert fingerprints(tmp_path) == before


class Counting:
    """A denoiser that counts how often it is asked for a sample's noise."""

    seen = 0

    def __init__(self, denoiser):
        self._denoiser = denoiser

    def __getattr__(self, name):
        return getattr(self._denoiser, name)

    def eps(self, x_t, t, cond):
        Counting.seen += len(x_t)
        return self._denoiser.eps(x_t, t, cond)


@pytest.fixture
def counted(monkeypatch):
    """Carries out studies, and returns the evaluations that the plan, the report and the denoiser counted."""
    model = Workbench.model
    monkeypatch.setattr(Workbench, "model", lambda worker, spec: Counting(model(worker, spec)))

    def run(path, studies, settings=SETTINGS):
        plan, store = planned(path, settings, studies)
        said, Counting.seen = plan.evaluations_missing, 0
        done = run_plan(
            plan, store, lambda: LocalExecutor(1), Resources(), workers=1, scheduler="synchronous"
        )
        return said, done.evaluations, Counting.seen

    return run


PATH_STUDIES = ("location", "step-error")


@pytest.mark.parametrize("kept", [0, 4, 64])
def test_the_walk_is_done_once_for_all_that_need_it(tmp_path, counted, kept):
    settings = [*SETTINGS, f"trajectories={kept}"]
    # Path, inversion, and a prediction from each state, 5 evaluations each of 12 samples.
    assert counted(tmp_path / "new", PATH_STUDIES, settings) == (180, 180, 180)
    # Images and latents are there: the path once more for both, and the predictions.
    assert counted(tmp_path / "old", ("correlation",), settings) == (120, 120, 120)
    assert counted(tmp_path / "old", PATH_STUDIES, settings) == (120, 120, 120)
    new, old = fingerprints(tmp_path / "new"), fingerprints(tmp_path / "old")
    assert new.items() <= old.items()
    assert {name.split("/")[0].split("-")[1] for name in old.keys() - new.keys()} == {"correlation"}
    # One study after the other walks once for each; the first needs no predictions.
    assert counted(tmp_path / "apart", PATH_STUDIES[:1], settings) == (120, 120, 120)
    assert counted(tmp_path / "apart", PATH_STUDIES[1:], settings) == (120, 120, 120)
    assert fingerprints(tmp_path / "apart") == new


def test_receipts_of_a_chain_are_those_of_its_artifacts(tmp_path):
    carry_out(tmp_path, lambda: LocalExecutor(1))
    plan, store = planned(tmp_path)
    for entry in plan.artifacts:
        receipts = store.open_artifact(entry.artifact).ledger.receipts()
        assert sorted(receipt.shard for receipt in receipts) == [0, 1, 2]
        assert all(set(receipt.variables) == set(entry.variables) for receipt in receipts)
        assert all(receipt.info["compute_seconds"] >= 0 for receipt in receipts)


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
    monkeypatch.setattr(Dying, "lives", [2, 0, 0, 1, 0, 0, 2])
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
                else:
                    written.extend(outcome.result)
                yield outcome

    written = []

    store = Store.open(tmp_path, mode="a").path
    with (
        hold(store, "mine") as lease,
        pytest.raises(StoreHeldError, match="taken over by run other"),
        Watcher(store, lease, "taba run x") as watch,
    ):
        carry_out(store, lambda: TakenOver(1), watch=watch)
    receipts = sum(f.read_text().count('"receipt"') for f in (store / "_ledger").glob("gaussian-*.jsonl"))
    assert receipts == len(written) > 2 and lease.file.exists()
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
