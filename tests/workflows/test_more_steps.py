"""More inversion steps, the fix at many steps, and the derivation: against closed forms and by hand."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from cluster.pool.executor import Resources
from cluster.pool.local import LocalExecutor
from taba_core.artifacts.reconstruction import Reconstruction
from taba_core.errors import UsageError
from taba_core.stats.estimate import Estimate
from taba_core.store import Store
from workflows.analysis.study import GROUPS, find_studies, in_group, read_settings
from workflows.configuration.context import Context
from workflows.execution.engine import coordinates, run_plan
from workflows.planning.plan import make_plan
from workflows.report.from_store import write_store_report
from workflows.studies.more_steps import compared_steps
from workflows.studies.more_steps.claims import decreasing

T = 20  # of the images
SWEEP = (5, 10, 20)
LONG = 100
STUDIES = ["more-steps", "fix-long", "derivation"]


def context(*sets: str, model: str = "gaussian") -> Context:
    return Context(model, "ddim", read_settings(list(sets)))


def run(path, names, *sets):
    store = Store.open(path, mode="a")
    plan = make_plan(context(*sets), find_studies(names), store)
    run_plan(plan, store, lambda: LocalExecutor(workers=2), Resources(num_cpus=1), workers=2)
    write_store_report(path, None, force=True)
    folder = path / "report"
    return json.loads((folder / "results.json").read_text()), json.loads((folder / "claims.json").read_text())


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("steps") / "store"
    sets = ("num_samples=64", f"num_inference_steps={T}", "inversion_steps=20,5,10")
    return (*run(path, STUDIES, *sets, f"long_steps={LONG}", "long_forward_steps=1%,4%"), path)


def value(rows, item, row, column):
    (found,) = [r for r in rows if (r["item"], r["row"], r["column"]) == (item, row, column)]
    return found


def test_every_number_with_a_closed_form_agrees_with_it(report):
    # Half a 95 % interval is about 2 SE; 2.5 of them are 5 SE.
    rows = [row for row in report[0] if row["theory"] is not None]
    far = [
        (row["item"], row["row"], row["column"], row["value"], row["theory"], row["ci95"])
        for row in rows
        if abs(row["value"] - row["theory"]) > 2.5 * (row["ci95"][1] - row["ci95"][0]) / 2 + 1e-6
    ]
    assert not far
    # Table 8: std and lag-1 of 3 T on 2 paths; the error of its regions; Table 9: mae of K = 0, and 2 K by 2 rules.
    count = {(row["item"], row["column"]): 0 for row in rows}
    for row in rows:
        count[row["item"], row["column"]] += 1
    assert count["table8", "std"] == count["table8", "lag1"] == count["table8-regions", "error_all"] == 6
    assert count["table9", "mae"] == 5


def test_each_row_states_the_steps_of_its_inversion(report):
    rows = [r for r in report[0] if r["item"] == "table8" and r["column"] == "std" and r["row"] != "Noise"]
    assert [(r["row"].split(" / ")[1], r["T"]) for r in rows] == [(f"T = {s}", s) for s in (*SWEEP, *SWEEP)]
    assert value(report[0], "table9", "DDIM latent", "kl")["T"] == LONG


def test_where_the_steps_are_the_images_own_the_two_paths_are_one_artifact(report):
    fixed, own = (
        value(report[0], "table8", f"{path} / T = {T}", "correlation")
        for path in (f"the same images, sampled at T = {T}", "images sampled at the same T (own path)")
    )
    assert {k: v for k, v in fixed.items() if k != "row"} == {k: v for k, v in own.items() if k != "row"}
    asked = find_studies(["more-steps"])[0].requests(context(f"num_inference_steps={T}"))
    assert asked["fixed/20"].artifact == asked["own/20"].artifact


def test_the_divergence_without_its_floor_is_the_divergence_minus_the_floor(report):
    for row in ("Noise (upper bound)", "DDIM latent"):
        kl, excess = (value(report[0], "table9", row, name) for name in ("kl", "kl_excess"))
        # n = 64: (2n - 1) / (n (n - 3)) = 127 / 3904 = 325.3e-4.
        assert kl["floor"] == pytest.approx(325.307, abs=1e-3)
        assert kl["value"] - excess["value"] == pytest.approx(kl["floor"], abs=1e-6)


def test_every_claim_of_the_three_studies_has_a_verdict(report):
    ids = {claim["id"] for claim in report[1]}
    rules = [
        f"{claim}-{rule}"
        for claim in ("C9a", "C9b", "C9b-excess", "C9c", "C9d")
        for rule in ("exact", "matched")
    ]
    assert ids == {"C8a", "C8a-r2", "C8b", "C8c", "CF9", "E1", "E2", "E3", *rules}
    by_id = {claim["id"]: claim for claim in report[1]}
    # The oracle is exact, so these three are no matter of chance.
    assert {by_id[name]["verdict"] for name in ("E1", "E2", "E3")} == {"holds"}
    assert by_id["E1"]["numbers"]["largest_difference"] < 1e-5


def test_the_schematic_is_drawn_in_vectors_with_both_labels(report):
    content = (report[2] / "report" / "figures" / "fig8.pdf").read_bytes()
    assert not re.search(rb"/Subtype\s*/Image", content)
    from workflows.report.schematic import inversion_step_schematic

    texts = [text.get_text() for axis in inversion_step_schematic().axes for text in axis.texts]
    assert r"$\epsilon(x_{t-1},\,t)$" in texts and r"$\epsilon(x_{t-1},\,t{-}1)$" in texts


def test_a_few_images_give_a_report_and_no_verdict_from_chance(tmp_path):
    sets = (
        "num_samples=4",
        "num_inference_steps=4",
        "inversion_steps=2,4",
        "long_steps=10",
        "long_forward_steps=1",
    )
    rows, claims = run(tmp_path / "store", STUDIES[:2], *sets)
    assert {row["n"] for row in rows if row["item"] == "table9"} == {4}
    # One canonical block (16) of samples leaves the jackknife nothing to leave out.
    unresolved = {c["id"] for c in claims if c["verdict"] == "not resolved"}
    assert {"C8a", "C8b", "C8c", "C9a-exact", "C9b-matched"} <= unresolved


# ---------------------------------------------------------------- steps of an inversion


def test_arrays_and_coordinates_follow_the_inversions_own_steps():
    c = context()
    inversion = c.inversion(c.generation(20), 2, "exact", num_inference_steps=50)
    assert (inversion.num_inference_steps, inversion.source.num_inference_steps) == (50, 20)
    for artifact in (inversion, Reconstruction(source=inversion)):
        assert artifact.num_steps == 50
        grid = coordinates(c, artifact)
        # 50 of 1000 leading: stride 20, the last timestep 980; 20 of 1000 would end at 950.
        assert len(grid["timestep"]) == 50 and grid["timestep"][-1] == 980
    assert inversion.num_evaluations() == 48 and Reconstruction(source=inversion).num_evaluations() == 50
    same = c.inversion(c.generation(20), num_inference_steps=20)
    assert same.key == c.inversion(c.generation(20)).key


def test_a_costly_study_prefers_its_own_n_unless_the_user_chose_one():
    (study,) = find_studies(["table9"])
    assert next(iter(study.requests(context()).values())).samples == 512
    assert next(iter(study.requests(context("num_samples=32")).values())).samples == 32
    # 10,240 images are a network's default; Table 9 has 4096.
    assert next(iter(study.requests(context(model="adm-64")).values())).samples == 4096
    # The sweep is cut for models that run everywhere, and a K that is no whole step at the user's T is left out.
    counts = {
        r.artifact.forward_steps for name, r in study.requests(context()).items() if name[:6] == "latent"
    }
    assert counts == {0, 1, 10, 40}
    short = study.requests(context("long_steps=200"))
    assert {r.artifact.forward_steps for name, r in short.items() if name[:6] == "latent"} == {0, 2, 8}


@pytest.mark.parametrize(
    ("study", "sets", "message"),
    [
        (
            "more-steps",
            ["inversion_steps=10,300"],
            "more-steps.steps: T=300 does not divide the 1000 training timesteps of Gaussian field, so its last level "
            "would be another than that of the other T; use 250 or 500.",
        ),
        (
            "fix-long",
            ["long_steps=999"],
            "fix-long.steps: T=999 does not divide the 1000 training timesteps of Gaussian field, so its last level "
            "would be another than that of the other T; use 500 or 1000.",
        ),
        (
            "fix-long",
            ["long_steps=100", "long_forward_steps=0.5%"],
            "--set fix-long.forward_steps, entry 0.5%: forward_fraction=0.005 of num_inference_steps=100 is 0.5 steps; "
            "it must be whole. Use a multiple of 0.01.",
        ),
        (
            "fix-long",
            ["long_forward_steps=100%"],
            "fix-long.forward_steps: K=1000 of T=1000; the sweep needs 1 <= K < T "
            "(K=0, plain inversion, is always in the table).",
        ),
        (
            "more-steps",
            ["inversion_steps=2000"],
            "more-steps.steps: num_inference_steps=2000 on a schedule of 1000 training timesteps; use 1 to 1000.",
        ),
    ],
)
def test_steps_that_cannot_be_are_refused_before_work(study, sets, message):
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        find_studies([study])[0].requests(context(*sets))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inversion_steps=", "give at least one step count, e.g. 10,100,1000"),
        ("inversion_steps=0,10", "T=0 is no number of steps; use 1 or more"),
        ("inversion_steps=ten", "--set more-steps.steps=ten"),
        ("long_steps=1", "greater than or equal to 2"),
    ],
)
def test_settings_that_are_no_steps_are_refused(text, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        read_settings([text])


def test_the_default_list_keeps_what_the_schedule_has():
    # A schedule of 4000 (ADM-64) has all; SDXL's offset of 1 puts the last of 1000 steps outside its 1000 timesteps.
    assert compared_steps(context(model="adm-64")) == (10, 20, 50, 100, 200, 500, 1000)
    assert compared_steps(context(model="sdxl")) == (10, 20, 50, 100, 200, 500)


# ---------------------------------------------------------------- the verdict on a trend


def exact(*values):
    return [Estimate.exact(v) for v in values]


def test_a_trend_is_judged_on_the_pairs_that_are_resolved():
    # 5 values: 10 pairs; falling throughout is tau = -1; one neighbouring pair swapped is (1 - 9) / 10 = -.8.
    assert decreasing(exact(5, 4, 3, 2, 1))[0] == "holds"
    assert decreasing(exact(5, 4, 3, 1, 2)) == (
        "holds",
        {"tau": -0.8, "tau_ci95": [-0.8, -0.8], "pairs": 10, "unresolved": 0},
    )
    # 4 values: 6 pairs, one swapped is -4/6 = -.67 > -.8.
    assert decreasing(exact(4, 3, 1, 2))[0] == "fails"
    # 5 +- 1.9 against 4: one of 6 pairs unresolved leaves tau anywhere in [-1, -4/6].
    wide = Estimate(np.array(5.0), np.array([7.0, 3.0]), "bootstrap", 8)
    verdict, numbers = decreasing([wide, *exact(4, 3, 2)])
    assert verdict == "not resolved" and numbers["unresolved"] == 1
    assert numbers["tau_ci95"] == pytest.approx([-1, -4 / 6])
    assert decreasing(exact(1))[0] == "not resolved"


def test_a_group_is_the_sections_it_names():
    names = {study.name for study in find_studies(["paper-analysis"])}
    assert {
        "correlation",
        "regions",
        "location",
        "step-error",
        "derivation",
        "more-steps",
        "fix-long",
    } <= names
    assert not names & {"fix", "model-card"}
    everything = find_studies(["paper"])
    assert names < {study.name for study in everything} and all(in_group(s, "paper") for s in everything)
    with pytest.raises(UsageError, match="did you mean paper-analysis"):
        find_studies(["paper-analisis"])
    assert set(GROUPS) == {"paper", "main-text", "paper-analysis"}
