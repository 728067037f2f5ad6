"""Planning on a cluster: stages and waves by hand, the allocation to ask for, files as they come to lie on disk."""

from __future__ import annotations

import json
import math
import subprocess

import pytest
from real_image_runs import save_pictures

from taba_core.errors import UsageError
from taba_core.models.catalog import load_card
from taba_core.models.weights import locate
from workflows.command.plan_page import print_plan
from workflows.planning.jobs import GROUPS_OF_MODELS, Asked, check_all, each_model
from workflows.planning.stages import Machines, list_schedule, timetable


def asked(*studies, settings=(), store="nowhere", method="ddim", weights=None):
    # With a budget, because the default follows from the room on this machine.
    return Asked(list(studies), str(store), "", method, list(settings), weights, budget="1PB")


def plan_of(*studies, model="adm-64", **options):
    jobs, store = check_all(each_model(asked(*studies, **options), [model]), write=False)
    return jobs[0].plan(store)


def test_units_are_handed_to_whoever_is_free():
    # Two workers: 5 | 3, then 3 + 2 = 5, then 5 + 4 = 9.
    assert list_schedule([5, 3, 2, 4], 2) == 9
    assert list_schedule([2.0] * 7, 3) == 6.0  # ceil(7 / 3) waves of 2 s
    assert list_schedule([], 3) == 0


def test_stages_of_table_2_by_hand():
    table = timetable(plan_of("correlation", settings=["num_samples=10240"]), Machines(4, 4))
    # T = 100: generation, then inversion: 160 shards of 64 images each, 64 * 100 * 0.093 / 128 s = 4.65 s.
    assert [stage.kinds for stage in table.stages] == ["generation", "inversion"]
    for stage in table.stages:
        assert stage.units == 160
        assert stage.longest == pytest.approx(4.65)
        assert stage.waves == 10  # 160 units on 16 workers
        assert stage.seconds == pytest.approx(46.5)
    # Twice the longest unit and a minute is below the five minutes every job gets.
    assert table.signal_seconds == 300


def test_what_one_unit_makes_together_is_timed_as_one_unit():
    table = timetable(plan_of("step-error", settings=["num_samples=640"]), Machines(1, 4))
    # T = 50: path, masks, predictions and rows of 64 images: 64 * (50 + 50) * 0.093 / 128 s = 4.65 s, ten times.
    (stage,) = table.stages
    assert stage.kinds == "generation, regions, step-errors, step-predictions"
    assert stage.units == 10 and stage.longest == pytest.approx(4.65)
    assert stage.waves == 3 and stage.seconds == pytest.approx(3 * 4.65)


def test_the_signal_leaves_time_for_two_of_the_longest_units():
    table = timetable(plan_of("fix-long", model="if"), Machines(1, 4))
    longest = 16 * 1000 * 0.609 / 64  # one shard of IF at T = 1000, in batches of 16: 152 s
    assert table.longest == pytest.approx(longest)
    assert table.signal_seconds == pytest.approx(2 * longest + 60, abs=1)
    assert table.time_limit % 30 == 0 and table.time_limit * 60 > 1.25 * table.seconds


def test_a_whole_day_of_one_node_is_an_hour_of_twenty_eight():
    plan = plan_of("correlation", model="adm-256", settings=["num_samples=10240"])
    one, many = (sum(s.seconds for s in timetable(plan, Machines(n, 4)).stages) for n in (1, 28))
    assert one / many == pytest.approx(28, rel=0.05)


def test_the_paper_asks_each_model_for_what_was_done_with_it():
    jobs, _ = check_all(each_model(asked("paper"), ["paper"]), write=False)
    by_model = {job.asked.model: {study.name for study in job.studies} for job in jobs}
    assert tuple(by_model) == tuple(GROUPS_OF_MODELS["paper"])
    assert "fix" in by_model["dit"] and "fix" not in by_model["adm-64"]
    assert "location" in by_model["ldm"] and "location" not in by_model["if"]
    assert all("correlation" in names for names in by_model.values())


def test_the_box_asks_its_networks_for_what_was_done_with_their_like_and_the_mixture_for_all():
    jobs, _ = check_all(each_model(asked("paper"), ["box"]), write=False)
    by_model = {job.asked.model: {study.name for study in job.studies} for job in jobs}
    assert list(by_model) == [
        "photo-mixture",
        "photo-adm",
        "photo-ldm",
        "photo-dit",
        "photo-flow",
        "photo-if",
    ]
    paper = {
        j.asked.model: {s.name for s in j.studies}
        for j in check_all(each_model(asked("paper"), ["paper"]), write=False)[0]
    }
    for name, like in {
        "photo-adm": "adm-64",
        "photo-ldm": "ldm",
        "photo-dit": "dit",
        "photo-flow": "dit",
        "photo-if": "if",
    }.items():
        assert by_model[name] == paper[like]
    assert all(by_model["photo-mixture"] >= names for names in by_model.values())


def test_a_model_named_twice_is_asked_once_and_one_weights_file_goes_with_one_model():
    assert [part.model for part in each_model(asked("fix"), ["dit", "dit"])] == ["dit"]
    with pytest.raises(UsageError, match=r"--weights w.pt goes with one --model; 2 were given"):
        each_model(asked("fix", weights="w.pt"), ["dit", "if"])


def test_studies_the_paper_did_not_make_are_refused():
    part = each_model(asked("fix"), ["paper"])[0]  # ADM-32, on which the fix was not measured
    with pytest.raises(UsageError, match="fix: the paper made none of them with these models"):
        check_all([part], write=False)


def test_the_plan_as_json_adds_up(capsys):
    parts = each_model(asked("correlation", "location"), ["adm-64", "ldm"])
    print_plan(parts, Machines(2, 4), as_json=True)
    plan = json.loads(capsys.readouterr().out)
    assert [m["model"] for m in plan["models"]] == ["adm-64", "ldm"]
    stages = [stage for m in plan["models"] for stage in m["stages"]]
    hours = sum(m["device_hours"] for m in plan["models"])
    # A stage counts a unit at the longer of computing and writing, so it is never below the network's time.
    assert hours <= math.fsum(s["device_seconds"] for s in stages) / 3600 < 1.5 * hours
    assert plan["nodes"] == 2 and plan["time_limit_minutes"] % 30 == 0


def test_the_request_names_what_was_asked(capsys):
    print_plan(
        each_model(asked("fix", settings=["seed=7"], store="s"), ["dit"]), Machines(4, 4), as_json=False
    )
    text = capsys.readouterr().out
    assert "sbatch --nodes=4 --gpus-per-node=4 --time=" in text
    assert "slurm/full_repro.sh fix --model dit --set seed=7 --store s" in text


@pytest.mark.follows("    slurm/full_repro.sh ", printed=True)
def test_the_request_can_be_pasted_into_a_shell_and_leaves_nothing_out(tmp_path, capsys):
    folder, store = save_pictures(tmp_path / "my 'best' $pictures"), tmp_path / "my store"
    part = asked("correlation", method="fixed-point", settings=[f"images={folder}"], store=store)
    print_plan(each_model(part, ["adm-64"]), Machines(4, 4), as_json=False)
    command = capsys.readouterr().out.partition("ask for:\n")[2].partition("\nThe limit")[0]
    pasted = ["bash", "-c", command.replace("sbatch", r"printf '%s\n'", 1)]
    words = subprocess.run(pasted, capture_output=True, text=True, check=True).stdout.splitlines()
    assert words[4:] == [
        *("slurm/full_repro.sh", "correlation", "--model", "adm-64", "--method", "fixed-point"),
        *("--set", f"images={folder}", "--store", str(store), "--budget", "1PB", "--device", "cpu"),
    ]
    own = locate(load_card("photo-adm"))
    print_plan(each_model(asked("fix", weights=str(own)), ["photo-adm"]), Machines(4, 4), as_json=False)
    assert f" fix --model photo-adm --weights {own} --store " in capsys.readouterr().out


def test_planned_inodes_are_the_files_on_disk(tmp_path):
    from workflows.execution.run import run_studies

    settings = ["num_samples=8", "num_inference_steps=3", "samples_per_shard=4"]
    parts = each_model(
        asked("correlation", "location", settings=settings, store=tmp_path / "s"), ["gaussian"]
    )
    jobs, _ = check_all(parts, write=False)
    planned = jobs[0].plan(None)
    run_studies(parts, address=None, executor="local", workers=1, report=False)
    for entry in planned.artifacts:
        found = 1 + sum(1 for _ in (tmp_path / "s" / entry.artifact.name).rglob("*"))
        ledger = (tmp_path / "s" / "_ledger" / f"{entry.artifact.name}.jsonl").exists()
        assert planned.files_of(entry) == found + ledger, entry.artifact.name
