"""A run of more samples continues a store: it computes exactly what is missing, and ends as a fresh run would."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from engine_runs import fingerprints, taba

from cluster.pool.executor import Resources
from cluster.pool.local import LocalExecutor
from taba_core.errors import UsageError
from taba_core.store import Store
from workflows.analysis.study import find_studies
from workflows.configuration.context import Context
from workflows.configuration.settings import parse_settings
from workflows.execution.engine import run_plan
from workflows.planning.plan import make_plan

SMALL = ("batch_size=4", "samples_per_shard=4", "num_inference_steps=4", "bootstrap_replicates=100")
STUDIES = ("correlation", "location", "step-error")
MODELS = {"gaussian": (), "photo-mixture": ("model.num_components_per_photo=1", "model.rank=4")}


def context_of(num_samples, *sets, model="gaussian", small=SMALL):
    return Context(
        model, "ddim", parse_settings([*small, f"num_samples={num_samples}", *MODELS[model], *sets])
    )


def run(path, num_samples, *sets, studies=STUDIES, model="gaussian", small=SMALL):
    """The report of a run of that many samples."""
    store = Store.open(path, mode="a")
    plan = make_plan(
        context_of(num_samples, *sets, model=model, small=small), find_studies(list(studies)), store
    )
    return run_plan(plan, store, lambda: LocalExecutor(1), Resources(), workers=1, scheduler="synchronous")


def written(path):
    """By kind, the shards that the ledger has receipts of, one for each time a shard was computed."""
    receipts = {
        (g.artifact.kind, g.name): sorted(r.shard for r in g.ledger.receipts())
        for g in Store.open(path).artifacts()
    }
    assert len({kind for kind, _ in receipts}) == len(receipts)  # no artifact was made under two keys
    return {kind: shards for (kind, _), shards in receipts.items()}


def results_of(path):
    """Results by study and n, without what names artifacts and settings."""
    store, found = Store.open(path), {}
    for name in store.results():
        result = store.read_result(name)
        found[result.attrs["study"], result.attrs["n"]] = result
    return found


def same_result(one, other):
    assert one.identical(other.assign_attrs(one.attrs)) and one.attrs["claims"] == other.attrs["claims"]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Stores of one run each, by model, n and further settings; made when first asked for."""
    base, made = tmp_path_factory.mktemp("fresh"), {}

    def make(num_samples, *sets, model="gaussian"):
        key = (model, num_samples, *sets)
        if key not in made:
            made[key] = base / str(len(made))
            run(made[key], num_samples, *sets, model=model)
        return made[key]

    return make


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kept", ["all", "64", "6"])
def test_more_samples_compute_exactly_the_missing_shards_and_equal_a_fresh_run(tmp_path, fresh, model, kept):
    path, sets = (
        shutil.copytree(fresh(8, f"trajectories={kept}", model=model), tmp_path / "s"),
        [f"trajectories={kept}"],
    )
    before, files = fingerprints(path), {f: f.stat().st_mtime_ns for f in path.rglob("c.*")}
    once = {key: [0, 1] for key in written(path)}
    assert written(path) == once | ({} if kept != "6" else {"step-predictions": [0, 1]})
    done = run(path, 16, *sets, model=model)
    # Two shards more of everything, in a chain each: path, inversion and predictions of 8 samples, 4 steps.
    assert (done.units, done.evaluations, done.reused) == (2, 8 * 12, [])
    more = written(path)
    few = {"step-predictions"} if kept == "6" else set()
    assert more == {kind: [0, 1] if kind in few else [0, 1, 2, 3] for kind in once}
    # What was there is as it was, and all is what a run of sixteen makes; the results of eight stay beside it.
    assert {f: f.stat().st_mtime_ns for f in files if "/sample/" not in str(f)}.items() <= files.items()
    grown, whole = fingerprints(path), fingerprints(fresh(16, *sets, model=model))
    assert whole.items() <= grown.items()
    rest = grown.keys() - whole.keys()
    assert {name.split("/")[0] for name in rest} == {
        name
        for name in Store.open(path).results()
        if name in Store.open(fresh(8, *sets, model=model)).results()
    }
    assert all(grown[name] == before[name] for name in rest)
    again = run(path, 8, *sets, model=model)
    assert (again.units, sorted(again.reused)) == (0, sorted(STUDIES))
    assert fingerprints(path) == grown


def test_a_number_of_samples_that_ends_within_a_shard_stores_it_whole_and_tables_take_the_first(
    tmp_path, fresh
):
    path = fresh(10)
    assert written(path) == {key: [0, 1, 2] for key in written(path)}
    assert all(group.extent.num_samples == 12 for group in Store.open(path).artifacts())
    # The results are those of ten samples: not of twelve, and the same wherever the shards end.
    grown = tmp_path / "grown"
    assert run(grown, 8).units == 2 and run(grown, 10).units == 1 and run(grown, 12).units == 0
    wide = tmp_path / "wide"
    run(wide, 10, small=[text.replace("shard=4", "shard=8") for text in SMALL])
    assert {group.extent.num_samples for group in Store.open(wide).artifacts()} == {16}
    assert run(wide, 16).units == 0
    ten = results_of(path)
    assert {n for _, n in ten} == {10}
    for study in STUDIES:
        for other in (grown, wide):
            same_result(ten[study, 10], results_of(other)[study, 10])
        twelve = results_of(grown)[study, 12]
        assert not ten[study, 10].identical(twelve.assign_attrs(ten[study, 10].attrs))


def test_studies_of_different_n_share_the_samples_and_each_takes_its_first(tmp_path, fresh):
    path = tmp_path / "s"
    assert run(path, 16, studies=["correlation"]).units == 8  # images and latents
    assert run(path, 8, studies=["regions"]).units == 2  # masks of the first eight
    assert written(path) == {"generation": [0, 1, 2, 3], "inversion": [0, 1, 2, 3], "regions": [0, 1]}
    masks = next(g for g in Store.open(path).artifacts() if g.artifact.kind == "regions")
    assert masks.extent.num_samples == 8
    assert run(path, 16, studies=["regions"]).units == 2
    assert written(path)["regions"] == [0, 1, 2, 3]
    found = results_of(path)
    assert set(found) == {("correlation", 16), ("regions", 8), ("regions", 16)}
    same_result(found["correlation", 16], results_of(fresh(16))["correlation", 16])
    alone = tmp_path / "alone"
    run(alone, 8, studies=["regions"])
    same_result(found["regions", 8], results_of(alone)["regions", 8])


def test_another_size_of_shards_in_a_second_run_gives_way_to_the_stores(tmp_path, fresh):
    path = shutil.copytree(fresh(8), tmp_path / "s")
    assert run(path, 16, small=[text.replace("shard=4", "shard=8") for text in SMALL]).units == 2
    groups = {g.name for g in Store.open(path).artifacts()}
    assert all(g.extent.samples_per_shard == 4 for g in Store.open(path).artifacts())
    grown, whole = fingerprints(path), fingerprints(fresh(16))
    assert {name: bits for name, bits in whole.items() if name.split("/")[0] in groups} == {
        name: bits for name, bits in grown.items() if name.split("/")[0] in groups
    }
    for study in STUDIES:
        same_result(results_of(path)[study, 16], results_of(fresh(16))[study, 16])


def test_a_study_added_later_takes_the_shards_of_the_images(tmp_path):
    path, wide = tmp_path / "s", [text.replace("shard=4", "shard=8") for text in SMALL]
    run(path, 8, studies=["correlation"])
    assert run(path, 16, studies=["step-error"], small=wide).units == 4
    assert {g.extent.samples_per_shard for g in Store.open(path).artifacts()} == {4}
    assert {g.artifact.kind: g.extent.num_samples for g in Store.open(path).artifacts()} == {
        "generation": 16, "inversion": 8, "regions": 16, "step-predictions": 16, "step-errors": 16,
    }  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_a_shard_of_several_batches_has_the_bits_of_shards_of_one(tmp_path, fresh, model):
    wide = tmp_path / "wide"
    run(wide, 16, model=model, small=[text.replace("shard=4", "shard=8") for text in SMALL])
    one, two = Store.open(fresh(16, model=model)), Store.open(wide)
    assert [g.name for g in one.artifacts()] == [g.name for g in two.artifacts()]
    for a, b in zip(one.artifacts(), two.artifacts(), strict=True):
        assert (a.num_shards, b.num_shards) == (4, 2) and a.variables == b.variables
        for name in a.variables:
            held = [group.read_samples(0, 16, (name,))[name] for group in (a, b)]
            np.testing.assert_array_equal(*held, strict=True)
    assert one.results() == two.results()
    for name in one.results():
        same_result(one.read_result(name), two.read_result(name))


def test_another_batch_size_is_another_artifact(tmp_path, fresh):
    four, two = (context_of(8, f"batch_size={b}", small=SMALL[1:]).generation(4) for b in (4, 2))
    assert four.key != two.key and four.key == context_of(400).generation(4).key
    path = shutil.copytree(fresh(8), tmp_path / "s")
    run(path, 8, "batch_size=2", small=SMALL[1:])
    batches = [
        g.artifact.samples.batch_size for g in Store.open(path).artifacts() if g.artifact.kind == "generation"
    ]
    assert sorted(batches) == [2, 4]
    assert fingerprints(fresh(8)).items() <= fingerprints(path).items()


def test_a_shard_that_cuts_a_batch_is_refused_and_both_ways_out_work(tmp_path):
    def sizes(batch, shard):
        return [f"batch_size={batch}", f"samples_per_shard={shard}", *SMALL[2:]]

    with pytest.raises(UsageError) as refused:
        run(tmp_path / "s", 12, studies=["correlation"], small=sizes(4, 6))
    assert str(refused.value) == (
        "samples_per_shard=6: a shard holds whole batches, and batch_size is 4; use a multiple of 4, or --set "
        "batch_size with a divisor of 6."
    )
    assert not list((tmp_path / "s").glob("gaussian-*"))
    assert run(tmp_path / "s", 12, studies=["correlation"], small=sizes(4, 8)).units == 4
    assert run(tmp_path / "s", 12, studies=["correlation"], small=sizes(3, 6)).units == 4


def words(num_samples, path):
    sets = [*SMALL[:2], "num_inference_steps=20", SMALL[3], f"num_samples={num_samples}", "trajectories=6"]
    return [
        "run", *STUDIES, "--model", "gaussian", "--executor", "local", "--workers", "1", "--no-report",
        "--store", str(path), *(word for text in sets for word in ("--set", text)),
    ]  # fmt: skip


def shards_on_disk(path):
    return len(list(path.glob("gaussian-path-distances-*/a/c.*")))


@pytest.mark.slow
def test_a_driver_killed_while_a_store_grows_is_completed_by_the_same_command(tmp_path):
    path, whole = tmp_path / "s", tmp_path / "whole"
    assert taba(*words(8, path)) == 0
    assert shards_on_disk(path) == 2
    driver = subprocess.Popen(
        [sys.executable, "-m", "workflows", *words(160, path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while shards_on_disk(path) < 4 and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(driver.pid, signal.SIGKILL)
    said, _ = driver.communicate()
    assert driver.returncode == -signal.SIGKILL, said
    assert 4 <= shards_on_disk(path) < 40
    assert {g.extent.num_samples for g in Store.open(path).artifacts()} == {
        160,
        8,
    }  # few predictions were asked
    assert taba(*words(160, path)) == 0
    assert taba("verify", "--deep", "--store", path) == 0
    assert taba(*words(160, whole)) == 0
    grown = fingerprints(path)
    assert fingerprints(whole).items() <= grown.items()
    # No shard of the first run was computed again.
    assert all(shards.count(0) == shards.count(1) == 1 for shards in written(path).values())
