"""Few stored paths or many: the same numbers, what is stored, what it takes, and what is refused over the budget."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from engine_runs import fingerprints, taba

import taba_core
from taba_core.errors import StoreError, UsageError
from taba_core.store import Store
from workflows.planning.budget import Budget, budget_at, over_budget, parse_bytes
from workflows.planning.jobs import Asked, check_all, each_model

# Shards of five: canonical blocks of sixteen cross them, and paths of seven samples end within the second of four.
SETTINGS = ["num_samples=20", "samples_per_shard=5", "num_inference_steps=4", "bootstrap_replicates=100"]
STUDIES = ["location", "step-error"]
D = 3 * 32 * 32  # entries of a state of the model `gaussian`


def run(store, trajectories, *more, settings=SETTINGS, studies=STUDIES):
    sets = [word for text in (*settings, f"trajectories={trajectories}") for word in ("--set", text)]
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


def artifacts_of(path):
    """Hashes of all files of the artifacts; a result also says with which settings it was made."""
    names = {g.name for g in Store.open(path).artifacts()}
    return {name: bits for name, bits in fingerprints(path).items() if name.split("/")[0] in names}


def plan_of(trajectories, *, studies=STUDIES, store="nowhere", settings=SETTINGS):
    asked = Asked(list(studies), str(store), "", "ddim", [*settings, f"trajectories={trajectories}"])
    jobs, opened = check_all(each_model(asked, ["gaussian"]), write=False)
    return jobs[0].plan(opened)


def refusal(plan, budget, store="nowhere"):
    return over_budget([plan], str(store), budget)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A finished store for each number of kept paths."""
    base = tmp_path_factory.mktemp("paths")
    for kept in ("0", "7", "all"):
        assert run(base / kept, kept) == 0
    return {kept: base / kept for kept in ("0", "7", "all")}


def test_results_have_the_same_names_and_bits_however_many_paths_are_kept(stores):
    few, *others = (results_of(path) for path in stores.values())
    assert len(few) == 2
    for other in others:
        assert list(other) == list(few)
        for name, result in few.items():
            assert result.identical(other[name].assign_attrs(result.attrs)), name
            assert result.attrs["claims"] == other[name].attrs["claims"]


def test_all_that_is_kept_is_the_same_however_many_paths_are_kept(stores):
    few, some, whole = (fingerprints(path) for path in stores.values())
    of_shards = [
        {name: bits for name, bits in files.items() if "/c." in name and "step-predictions" not in name}
        for files in (few, some, whole)
    ]
    assert of_shards[0].items() < of_shards[1].items() < of_shards[2].items()
    # Two more shards of x_t and eps_t each time.
    assert [len(files) - len(of_shards[0]) for files in of_shards] == [0, 4, 8]


def test_stored_rows_are_the_rows_of_the_stored_paths_to_the_bit(stores):
    from taba_core.stats.step_error import StepError
    from taba_core.stats.trajectory import PathDistance

    paths = group_of(stores["all"], "generation").read_samples(0, 20, ("noise", "image", "x_t", "eps_t"))
    paths |= group_of(stores["all"], "inversion").read_samples(0, 20, ("latent",))
    paths |= group_of(stores["all"], "step-predictions").read_samples(0, 20, ("eps_hat",))
    paths |= group_of(stores["all"], "regions").read_samples(0, 20, ("region",))
    for path in stores.values():
        for kind, statistic in (("path-distances", PathDistance()), ("step-errors", StepError())):
            group = group_of(path, kind)
            stored = group.read_samples(0, 20, group.variables)
            for name, rows in statistic.rows(paths).items():
                np.testing.assert_array_equal(stored[name], rows, strict=True)


def test_only_the_first_paths_are_stored_and_status_verify_and_readers_know(stores, capsys):
    held, group = group_of(stores["all"], "generation"), group_of(stores["7"], "generation")
    assert sorted(p.name for p in group.path.glob("x_t/c.*")) == ["c.0.0.0.0.0", "c.1.0.0.0.0"]
    # Two shards of five hold the seven samples, and three more.
    np.testing.assert_array_equal(
        group.read_samples(0, 10, ("x_t",))["x_t"], held.read_samples(0, 10, ("x_t",))["x_t"]
    )
    with pytest.raises(StoreError, match=r"only the first 10 samples of 'x_t' were asked for so far"):
        group.read_samples(8, 12, ("x_t",))
    x_t = taba_core.open_store(stores["7"])[group.name]["x_t"]
    assert np.isfinite(x_t[:10]).all() and np.isnan(x_t[10:]).all()
    assert group.missing() == {} and group.missing(["x_t"]) == {2: ("x_t",), 3: ("x_t",)}
    for store in stores.values():
        capsys.readouterr()
        assert taba("status", "--store", store) == 0
        # x_t and eps_t; predictions are an artifact of ten samples.
        few = capsys.readouterr().out.count("complete, first 10 samples only")
        assert few == (2 if store.name == "7" else 0)
        assert taba("verify", "--deep", "--store", store) == 0
    assert group_of(stores["0"], "generation").variables == ("noise", "image", "class_id")


def test_a_lost_path_and_lost_rows_are_problems_and_the_same_command_mends_them(stores, tmp_path, capsys):
    store = shutil.copytree(stores["7"], tmp_path / "s")
    (group_of(store, "generation").path / "x_t" / "c.1.0.0.0.0").unlink()
    rows = group_of(store, "step-errors").path / "error" / "c.2.0.0"
    rows.write_bytes(rows.read_bytes()[:-1])
    assert taba("verify", "--forget", "--store", store) == 1
    out = capsys.readouterr().out
    assert "x_t shard 1: missing" in out and "error shard 2: size" in out
    assert run(store, 7) == 0
    assert "2 of 22 shards to compute in 2 units" in capsys.readouterr().out
    assert fingerprints(store) == fingerprints(stores["7"])


def test_a_finished_run_computes_nothing_again_however_many_paths_it_asks(stores, capsys):
    for store, kept in (("0", 0), ("7", 7), ("7", 0), ("all", "all"), ("all", 7), ("all", 0)):
        assert run(stores[store], kept) == 0
        said = capsys.readouterr().out
        assert ": 0 of " in said and "computed 0 units, analysed 0 studies, reused 2" in said


def test_a_result_outlives_the_paths_that_were_kept_beside_it(stores, tmp_path, capsys):
    store = shutil.copytree(stores["all"], tmp_path / "s")
    for name in ("x_t", "eps_t"):
        shutil.rmtree(group_of(store, "generation").path / name)
    assert run(store, 0) == 0
    assert "computed 0 units, analysed 0 studies, reused 2" in capsys.readouterr().out
    assert run(store, 7) == 0
    assert "computed 2 units, analysed 0 studies, reused 2" in capsys.readouterr().out  # paths of two shards
    assert group_of(store, "generation").missing(["x_t", "eps_t"], {"x_t": 2, "eps_t": 2}) == {}


def test_more_paths_can_be_asked_later_and_the_old_ones_stay(stores, tmp_path, capsys):
    store = shutil.copytree(stores["0"], tmp_path / "s")
    for kept in (7, "all"):
        # The coordinate of the samples grows with the predictions; no other file is written again.
        before = {f: f.stat().st_mtime_ns for f in store.rglob("c.*") if f.parent.name != "sample"}
        assert run(store, kept) == 0
        # x_t and eps_t in one shard of the generation and eps_hat in one of the predictions, in one unit, twice.
        assert "4 of " in (said := capsys.readouterr().out) and "in 2 units" in said
        assert {f: f.stat().st_mtime_ns for f in before} == before
        assert artifacts_of(store) == artifacts_of(stores[str(kept)])
    group = group_of(store, "generation")
    assert group.missing(["x_t", "eps_t"]) == {} and group.array("x_t").samples_asked is None


def test_bytes_and_evaluations_by_hand():
    # A path of one shard: 5 samples, 4 steps, D float32, in 4 chunks with 4 + 16 bytes each, and 4 for the index.
    path = 5 * 4 * D * 4 + 4 * 20 + 4
    whole, some, none = (plan_of(kept) for kept in ("all", 7, 0))
    # Rows of a shard, one chunk a variable: entries (5, 2), six of (5, 4, 2); a and b (5, 5), c (5,); float64.
    rows = (10 * 8 + 24) + 6 * (40 * 8 + 24) + 2 * (25 * 8 + 24) + (5 * 8 + 24)
    # Noise, image and latent, the class and the mask of a shard, one chunk each.
    ends = 3 * (5 * D * 4 + 24) + (5 * 4 + 24) + (5 * 32 * 32 + 24)
    assert none.bytes_total == 4 * (ends + rows)
    # x_t, eps_t and eps_hat of two shards, and of four.
    assert some.bytes_total - none.bytes_total == 6 * path
    assert whole.bytes_total - none.bytes_total == 12 * path
    for plan in (whole, some, none):
        # Path, inversion and a prediction from each state: nothing is walked twice.
        assert plan.evaluations == plan.evaluations_missing == 20 * (4 + 4 + 4)
        assert plan.files_missing == sum(p.num_files for p in plan.artifacts)
        assert plan.bytes_missing == plan.bytes_total
        assert plan.units == 4 and plan.shards_missing == sum(p.num_shards for p in plan.artifacts)


def test_what_fits_to_the_byte_runs_and_a_byte_less_is_refused():
    plan = plan_of("all")
    assert refusal(plan, f"{plan.bytes_total}") == ""
    assert refusal(plan, f"{plan.bytes_total - 1}").startswith("what is asked takes 3.7 MB, more than")


def test_what_does_not_fit_is_refused_before_anything_is_written_with_ways_out_that_work(tmp_path, capsys):
    text = (
        "what is asked takes 3.7 MB, more than the budget of 1.0 MB. "
        "Use --budget SIZE, a smaller --set num_samples or --set trajectories=64"
    )
    for command in (["plan"], ["run", "--executor", "local"]):
        sets = [word for setting in (*SETTINGS, "trajectories=all") for word in ("--set", setting)]
        code = taba(
            *command, *STUDIES, "--model", "gaussian", "--budget", "1MB", "--store", tmp_path / "s", *sets
        )
        assert code == 2 and text in capsys.readouterr().err
    assert not list((tmp_path / "s").glob("gaussian*"))
    # With few samples 64 paths are all of them, and the next message says what is left.
    assert refusal(plan_of(64), "1MB") == text.replace("trajectories=64", "trajectories=0") + "."
    assert refusal(plan_of(0), "100kB").endswith("Use --budget SIZE or a smaller --set num_samples.")
    # The ways out, followed.
    smaller = [setting.replace("=20", "=5") for setting in SETTINGS]
    assert run(tmp_path / "a", "all", "--budget", "4MB") == 0
    assert run(tmp_path / "b", "all", "--budget", "1MB", settings=smaller) == 0
    assert run(tmp_path / "c", 0, "--budget", "1MB") == 0


def test_without_a_budget_the_room_at_the_store_decides_and_another_store_is_a_way_out(monkeypatch):
    class Room:
        f_bavail, f_frsize = 1000, 1000

    monkeypatch.setattr("workflows.planning.budget.os.statvfs", lambda place: Room)
    assert refusal(plan_of(7), None) == (
        "what is asked takes 2.2 MB, more than the budget of 800.0 kB, 80% of the room at the store. "
        "Use --budget SIZE, another --store, a smaller --set num_samples or --set trajectories=0."
    )


def test_what_is_stored_takes_no_room_any_more(stores):
    for kept, store in stores.items():
        assert refusal(plan_of(kept, store=store), "1kB", store) == ""


def test_several_models_share_one_budget():
    settings = ["num_samples=640", "num_inference_steps=100", "trajectories=64"]
    asked = Asked(["location"], "nowhere", "", "ddim", settings)
    plans = [job.plan(None) for job in check_all(each_model(asked, ["adm-64", "ldm"]), write=False)[0]]
    total = sum(plan.bytes_total for plan in plans)
    # ADM-64: noise, image and latent of 640 samples; the paths down and up of the first 64 (one shard). A state has
    # 12288 float32 values.
    assert plans[0].bytes_total == pytest.approx((3 * 640 + 2 * 64 * 100) * 12288 * 4, rel=0.01)
    assert over_budget(plans, "nowhere", f"{total}") == ""
    assert over_budget(plans, "nowhere", f"{total - 1}").startswith("what is asked takes ")


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


def test_the_plan_says_what_would_be_refused_and_as_json(capsys, monkeypatch):
    sets = [word for setting in (*SETTINGS, "trajectories=7") for word in ("--set", setting)]
    arguments = ["plan", *STUDIES, "--model", "gaussian", "--store", "nowhere", *sets]
    assert taba(*arguments, "--budget", "3MB", "--json") == 0
    assert json.loads(capsys.readouterr().out)["fits_budget"] is True

    class Room:
        f_bavail, f_frsize = 1000, 1000

    monkeypatch.setattr("workflows.planning.budget.os.statvfs", lambda place: Room)
    # A plan may be for another machine, so the room of this one stops no plan.
    assert taba(*arguments) == 0
    out = capsys.readouterr().out
    assert (
        "`taba run` here would refuse: what is asked takes 2.2 MB" in out and "gaussian-step-errors-" in out
    )
    assert taba(*arguments, "--json") == 0
    assert json.loads(capsys.readouterr().out)["fits_budget"] is False


def test_the_derivation_walks_back_the_same_paths_however_many_are_kept(tmp_path):
    for kept in ("0", "all"):
        assert run(tmp_path / kept, kept, studies=["derivation"]) == 0
    (a,), (b,) = (results_of(tmp_path / kept).values() for kept in ("0", "all"))
    assert a.identical(b.assign_attrs(a.attrs)) and a.attrs["claims"] == b.attrs["claims"]
    # It reads the paths of up to 64 images itself, so they are kept though none was asked.
    assert fingerprints(tmp_path / "0").keys() == fingerprints(tmp_path / "all").keys()
