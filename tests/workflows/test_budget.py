"""Sampling paths within a budget of bytes: the same numbers without them, what is decided, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from engine_runs import fingerprints, taba

import taba_core
from taba_core.errors import StoreError, UsageError
from taba_core.store import Store
from workflows.planning.budget import Budget, budget_at, parse_bytes
from workflows.planning.jobs import Asked, check_all, each_model, plan_all

# Shards of five: canonical blocks of sixteen cross them, and paths of seven samples end within the second of four.
SETTINGS = ["num_samples=20", "samples_per_shard=5", "num_inference_steps=4", "bootstrap_replicates=100"]
FEW = [*SETTINGS, "trajectory_samples=7"]
STUDIES = ["location", "step-error"]
D = 3 * 32 * 32  # entries of a state of the model `gaussian`


def run(store, *more, settings=FEW, studies=STUDIES):
    sets = [word for text in settings for word in ("--set", text)]
    return taba(
        "run", *studies, "--model", "gaussian", "--executor", "local", "--workers", 1, "--no-report",
        "--store", store, *sets, *more,
    )  # fmt: skip


def results_of(path):
    store = Store.open(path)
    return {name: store.read_result(name) for name in store.results()}


def group_of(path, kind):
    (group,) = [g for g in Store.open(path).artifacts() if g.artifact.kind == kind]
    return group


def decided(*settings, budget=None, studies=STUDIES, models=("gaussian",), store="nowhere"):
    asked = Asked(list(studies), str(store), "", "ddim", [*SETTINGS, *settings], budget=budget)
    jobs, opened = check_all(each_model(asked, list(models)), write=False)
    return plan_all(jobs, opened)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "s"
    assert run(path, "--set", "trajectories=full") == 0
    return path


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    path = tmp_path_factory.mktemp("fused") / "s"
    assert run(path, "--set", "trajectories=fused") == 0
    return path


def test_results_have_the_same_names_and_bits_with_and_without_whole_paths(whole, fused):
    a, b = results_of(whole), results_of(fused)
    assert list(a) == list(b) and len(a) == 2
    for name, result in a.items():
        assert result.identical(b[name].assign_attrs(result.attrs)), name
        assert result.attrs["claims"] == b[name].attrs["claims"]


def test_stored_rows_are_the_rows_of_the_stored_paths_to_the_bit(whole, fused):
    from taba_core.stats.step_error import StepError
    from taba_core.stats.trajectory import PathDistance

    paths = group_of(whole, "generation").read_samples(0, 20, ("noise", "image", "x_t", "eps_t"))
    paths |= group_of(whole, "inversion").read_samples(0, 20, ("latent",))
    paths |= group_of(whole, "step-predictions").read_samples(0, 20, ("eps_hat",))
    paths |= group_of(whole, "regions").read_samples(0, 20, ("region",))
    for kind, statistic in (("path-distances", PathDistance()), ("step-errors", StepError())):
        group = group_of(fused, kind)
        stored = group.read_samples(0, 20, group.variables)
        for name, rows in statistic.rows(paths).items():
            np.testing.assert_array_equal(stored[name], rows, strict=True)


def test_only_the_first_paths_are_stored_and_status_verify_and_readers_know(whole, fused, capsys):
    held, group = group_of(whole, "generation"), group_of(fused, "generation")
    assert sorted(p.name for p in group.path.glob("x_t/c.*")) == ["c.0.0.0.0.0", "c.1.0.0.0.0"]
    # Two shards of five hold the seven samples, and three more.
    np.testing.assert_array_equal(
        group.read_samples(0, 10, ("x_t",))["x_t"], held.read_samples(0, 10, ("x_t",))["x_t"]
    )
    with pytest.raises(StoreError, match=r"only the first 10 samples of 'x_t' were asked.*trajectories=full"):
        group.read_samples(8, 12, ("x_t",))
    x_t = taba_core.open_store(fused)[group.name]["x_t"]
    assert np.isfinite(x_t[:10]).all() and np.isnan(x_t[10:]).all()
    assert group.missing() == {} and group.missing(["x_t"]) == {2: ("x_t",), 3: ("x_t",)}
    assert taba("status", "--store", fused) == 0
    assert "complete, first 10 samples only" in capsys.readouterr().out
    assert taba("verify", "--deep", "--store", fused) == 0


def test_a_lost_path_of_the_first_samples_is_still_a_problem(fused, tmp_path, capsys):
    import shutil

    store = shutil.copytree(fused, tmp_path / "s")
    (group_of(store, "generation").path / "x_t" / "c.1.0.0.0.0").unlink()
    rows = group_of(store, "step-errors").path / "error" / "c.2.0.0"
    rows.write_bytes(rows.read_bytes()[:-1])
    assert taba("verify", "--forget", "--store", store) == 1
    out = capsys.readouterr().out
    assert "x_t shard 1: missing" in out and "error shard 2: size" in out
    assert run(store, "--set", "trajectories=fused") == 0
    assert "2 of " in capsys.readouterr().out  # units: the path's shard and that of the rows
    assert fingerprints(store) == fingerprints(fused)


def test_a_finished_run_computes_nothing_again_whichever_way_is_asked(whole, fused, capsys):
    assert run(fused, "--set", "trajectories=fused") == 0
    assert "computed 0 units, analysed 0 studies, reused 2" in capsys.readouterr().out
    # Paths that are there are read: no rows are made beside them.
    assert run(whole, "--set", "trajectories=fused") == 0
    assert "computed 0 units, analysed 0 studies, reused 2" in capsys.readouterr().out


def test_a_result_outlives_the_paths_it_was_computed_from(whole, tmp_path, capsys):
    import shutil

    store = shutil.copytree(whole, tmp_path / "s")
    for name in ("x_t", "eps_t"):
        shutil.rmtree(group_of(store, "generation").path / name)
    assert run(store, "--set", "trajectories=fused") == 0
    assert "computed 2 units, analysed 0 studies, reused 2" in capsys.readouterr().out  # paths of two shards
    assert not list(store.glob("gaussian-step-errors-*"))


def test_all_paths_can_be_asked_later(fused, tmp_path, whole):
    import shutil

    store = shutil.copytree(fused, tmp_path / "s")
    assert run(store, "--set", "trajectories=full") == 0
    group, held = group_of(store, "generation"), group_of(whole, "generation")
    assert group.missing(["x_t", "eps_t"]) == {} and group.array("x_t").samples_asked is None
    np.testing.assert_array_equal(group.read_shard(3, ("x_t",))["x_t"], held.read_shard(3, ("x_t",))["x_t"])


def test_bytes_with_and_without_paths_by_hand():
    # A path of one shard: 5 samples, 4 steps, D float32, in 4 chunks with 4 + 16 bytes each, and 4 for the index.
    path = 5 * 4 * D * 4 + 4 * 20 + 4
    full, small = (
        decided("trajectories=full").plans[0],
        decided("trajectories=fused", "trajectory_samples=7").plans[0],
    )
    # Rows of a shard, one chunk a variable: entries (5, 2), six of (5, 4, 2); a and b (5, 5), c (5,); float64.
    rows = (10 * 8 + 24) + 6 * (40 * 8 + 24) + 2 * (25 * 8 + 24) + (5 * 8 + 24)
    assert small.bytes_of_rows == 4 * rows
    # x_t, eps_t and eps_hat of four shards against x_t and eps_t of two and the rows.
    assert full.bytes_total - small.bytes_total == 12 * path - 4 * path - 4 * rows
    # The path again for either study and one prediction a state; in full 1 generation, 1 inversion, 1 prediction.
    assert full.evaluations == 20 * (4 + 4 + 4) and small.evaluations == 20 * (4 + 4 + 8 + 4)
    assert small.files_missing == sum(p.num_files for p in small.artifacts)
    assert small.bytes_missing == small.bytes_total


def test_whole_paths_are_kept_where_they_fit_to_the_byte():
    whole = decided("trajectories=full").plans[0].bytes_total
    fits, not_quite = decided(budget=f"{whole}"), decided(budget=f"{whole - 1}")
    assert not fits.plans[0].fused and fits.line == "with whole sampling paths: 3.7 MB (budget 3.7 MB)."
    assert not_quite.plans[0].fused and not_quite.plans[0].bytes_total < whole - 1
    assert not fits.refusal and not not_quite.refusal


def test_the_decision_is_said_in_one_line():
    said = decided("trajectory_samples=5", budget="2MB").line
    # A path of all samples is 20 * 4 * D * 4 B = .98 MB: three of them, noise, image and latent of .25 MB each are
    # 3.7 MB. Two of a quarter of the samples (.49), the end points (.74), masks and rows (.03) are 1.3 MB.
    # Rows: 4 shards of 2680 B. 240 evaluations in full, 400 fused.
    assert said == (
        "whole sampling paths: 3.7 MB > budget 2.0 MB: storing end points, per-step statistics (10.7 kB) and the "
        "paths of the first 5 samples, 1.3 MB in all; the paths are walked again for that (160 network evaluations "
        "more)."
    )


def test_what_cannot_fit_is_refused_before_anything_is_written(tmp_path, capsys):
    # 64 samples are all there are: x_t and eps_t of .98 MB each, and .74 MB of end points.
    text = (
        r"what is asked, even without whole sampling paths, takes 2.7 MB, more than the budget of 1.0 kB. "
        r"Use --budget SIZE, a smaller --set num_samples or a smaller --set trajectory_samples"
    )
    assert decided(budget="1kB").refusal == text + "."
    assert "--set trajectories=auto" in decided("trajectories=full", budget="1MB").refusal
    assert decided(studies=["correlation"], budget="1kB").refusal.startswith("what is asked takes ")
    for command in (["plan"], ["run", "--executor", "local"]):
        sets = [word for setting in SETTINGS for word in ("--set", setting)]
        code = taba(
            *command, *STUDIES, "--model", "gaussian", "--budget", "1kB", "--store", tmp_path / "s", *sets
        )
        assert code == 2 and text in capsys.readouterr().err
    assert not list((tmp_path / "s").glob("gaussian*"))


def test_what_is_stored_takes_no_room_any_more(fused, whole):
    assert decided("trajectory_samples=7", budget="1kB", store=fused).refusal == ""
    assert decided("trajectories=full", budget="1kB", store=whole).refusal == ""


def test_of_several_models_the_one_that_saves_most_gives_up_its_paths():
    two = ("adm-64", "ldm")
    sizes = ["num_samples=640", "samples_per_shard=64", "num_inference_steps=100"]
    asked = {"studies": ["location"], "models": two}
    full = [p.bytes_total for p in plans_of(sizes, **asked)]
    assert full[0] == pytest.approx(640 * 101 * 12288 * 4 + 2 * 640 * 12288 * 4, rel=0.01)
    small = plans_of(sizes, **asked, budget=f"{sum(full) - 1}")
    assert [p.fused for p in small].count(True) == 1
    assert sum(p.bytes_total for p in small) <= sum(full) - 1


def plans_of(sizes, *, studies, models, budget="1TB"):
    asked = Asked(list(studies), "nowhere", "", "ddim", list(sizes), budget=budget)
    return plan_all(check_all(each_model(asked, list(models)), write=False)[0], None).plans


@pytest.mark.parametrize(
    ("text", "size"),
    [("500GB", 500 * 10**9), ("1.5 TB", 15 * 10**11), ("2GiB", 2**31), ("7", 7), ("3kb", 3000)],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0GB", "5 apples", "1e9"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match=r"--budget .*: write a size, for example 500GB, 1.5TB or 200GiB\."):
        parse_bytes(text)


def test_the_default_is_a_terabyte_or_most_of_the_room_and_does_not_shrink_as_a_run_writes(
    tmp_path, monkeypatch
):
    class Room:
        f_bavail, f_frsize = 1000, 10**6

    monkeypatch.setattr("workflows.planning.budget.os.statvfs", lambda place: Room)
    # .8 * 1 GB; with 100 MB written of the same run, 900 MB free: the same.
    assert budget_at(str(tmp_path / "new" / "s"), None, 0) == Budget(800 * 10**6, given=False)
    Room.f_bavail = 900
    assert budget_at(str(tmp_path), None, 100 * 10**6) == Budget(800 * 10**6, given=False)
    Room.f_bavail = 10**8
    assert budget_at(str(tmp_path), None, 0) == Budget(10**12, given=False)
    assert str(Budget(800 * 10**6, given=False)) == "800.0 MB, 80% of the room at the store"


def test_the_plan_prints_the_decision_and_as_json(capsys):
    arguments = ["plan", *STUDIES, "--model", "gaussian", "--store", "nowhere", "--budget", "3MB"]
    sets = [word for setting in SETTINGS for word in ("--set", setting)]
    assert taba(*arguments, *sets) == 0
    out = capsys.readouterr().out
    assert "whole sampling paths: 3.7 MB > budget 3.0 MB" in out and "gaussian-step-errors-" in out
    assert taba(*arguments, *sets, "--json") == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["trajectories"] == "fused"


def test_the_derivation_walks_back_the_same_paths(tmp_path):
    for policy in ("full", "fused"):
        settings = [*SETTINGS, "trajectory_samples=0", f"trajectories={policy}"]
        assert run(tmp_path / policy, settings=settings, studies=["derivation"]) == 0
    (a,), (b,) = (results_of(tmp_path / policy).values() for policy in ("full", "fused"))
    assert a.identical(b.assign_attrs(a.attrs)) and a.attrs["claims"] == b.attrs["claims"]
