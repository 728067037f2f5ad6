"""The comparison of inversion methods: its rows, counts, artifacts, claims and pictures."""

from __future__ import annotations

import re

import numpy as np
import pytest
from method_runs import context, report_of, run

from taba_core.artifacts import variable
from taba_core.diffusion.inversion import Fallback, inversion_method_class
from taba_core.errors import UsageError
from workflows.analysis.study import find_studies, in_group, read_settings
from workflows.command.plan_page import inversion_text
from workflows.planning.plan import make_plan
from workflows.report.comparison import front
from workflows.studies.methods.claims import proportional
from workflows.studies.methods.rows import GROUPS, built_in_methods, method_rows
from workflows.studies.methods.tables import tables_of

# What an image costs at T = 50, by row: the totals of the methods' descriptions.
COUNTS = {
    "ddim": 50,
    "pix2pix-zero": 50,
    "renoise-k1": 75,  # 25 steps of 2 evaluations and a reference prediction
    "renoise-k4": 60,  # 10 steps of 5 and 1
    "renoise-k2": 68,  # 17 steps of 3 and 1
    "renoise-k2-free": 51,
    "reverse-dpm-1": 50,
    "forward-1-exact": 49,
    "forward-2-exact": 48,
    "fixed-point-5": 250,
    "noise-initialised": 115,  # 5 steps of 5, 45 of 2
    "predictor-corrector": 71,
    "noise-projection": 50,
    "edict": 100,
    "bdia-half": 50,
    "rex": 100,
}


SMALL = (
    "arc_samples=4",
    "num_samples=8",
    "samples_per_shard=4",
    "num_inference_steps=50",
    "bootstrap_replicates=100",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return run(
        tmp_path_factory.mktemp("methods") / "store", ["methods"], *SMALL, f"methods={','.join(COUNTS)}"
    )


@pytest.fixture(scope="module")
def result(store):
    (name,) = [name for name in store.results() if "methods" in name]
    return store.read_result(name)


@pytest.fixture(scope="module")
def report(store):
    return report_of(store.path)


def value(rows, item, row, column):
    (found,) = [r for r in rows if r["item"] == item and r["row"].endswith(row) and r["column"] == column]
    return found


# ---------------------------------------------------------------- rows


def test_every_registered_method_has_a_row_of_its_own_label_where_it_applies():
    of_text = {"null-text", "prompt-tuning", "negative-prompt"}
    of_flows = {name for name in built_in_methods() if inversion_method_class(name).made_for_flows}
    assert {row.method for row in method_rows(context(), 50)} == {*built_in_methods()} - of_text - of_flows
    rows = method_rows(context(model="photo-flow"), 50)
    assert {row.method for row in rows} == {*built_in_methods()} - of_text
    assert not [row.name for row in rows if row.label == row.name]
    assert len({row.name for row in rows}) == len({row.label for row in rows}) == len(rows)
    assert [GROUPS.index(row.group) for row in rows] == sorted(GROUPS.index(row.group) for row in rows)
    # asked for by name they run on every model
    by_name = method_rows(context("methods=heun,rf-inversion"), 50)
    assert [row.name for row in by_name] == ["heun", "rf-inversion"] and len(of_flows) == 6
    text = method_rows(context("prompts=builtin", "num_samples=8", model="if"), 50)
    assert of_text <= {row.method for row in text}


def test_rows_are_chosen_by_row_by_method_or_as_the_papers_table():
    def names(*sets):
        return [row.name for row in method_rows(context(*sets), 50)]

    assert names("methods=forward-1-exact,ddim") == ["ddim", "forward-1-exact"]
    assert names("methods=bdia") == ["bdia"] and names("methods=bdia,bdia-half") == ["bdia", "bdia-half"]
    assert names("methods=reverse-dpm") == ["reverse-dpm-1", "reverse-dpm-2"]
    paper = [row.paper for row in method_rows(context("methods=table7"), 50)]
    assert paper[0] == "DDIM Inv." and paper[-1] == "Ours (forward 4%)" and len(paper) == 9 and all(paper)
    # The paper's percentages are those of T = 50.
    assert not [row for row in method_rows(context("methods=table7"), 20) if row.forward_steps and row.paper]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["methods=ddimm"], "unknown row of study methods 'ddimm': did you mean ddim"),
        (
            ["methods=null-text"],
            "inversion method 'null-text' works on a text condition, and the images of Gaussian field have none; use a "
            "text-conditional model, or another method.",
        ),
    ],
)
def test_rows_that_cannot_be_are_refused_before_work(sets, message):
    with pytest.raises(UsageError, match=f"^{re.escape(message)}"):
        find_studies(["methods"])[0].requests(context(*sets))


def test_samplers_of_coupled_states_are_no_rows_under_rules_that_they_cannot_undo():
    """photo-if thresholds x_0 dynamically: the comparison leaves them out, and who asks for one is told why."""
    coupled = {"edict", "bdia", "o-belm", "rex"}
    of_text = ("num_samples=8",)
    assert not coupled & {row.method for row in method_rows(context(*of_text, model="photo-if"), 50)}
    exact = method_rows(context(*of_text, "conventions=exact", model="photo-if"), 50)
    assert coupled <= {row.method for row in exact}
    message = "inversion method 'edict': x0_rule=dynamic moves the state by another eps than the network's"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}.*--set conventions=exact"):
        find_studies(["methods"])[0].requests(context(*of_text, "methods=edict", model="photo-if"))


def test_no_rows_are_no_comparison():
    with pytest.raises(UsageError, match=re.escape("give at least one row, e.g. ddim,noise-initialised")):
        read_settings(["methods="])


def test_the_study_is_found_by_its_table_and_as_part_of_the_paper_but_the_demo_does_not_wait_for_it():
    (study,) = find_studies(["table7"])
    assert study.name == "methods" and in_group(study, "paper") and not in_group(study, "main-text")


# ---------------------------------------------------------------- artifacts and counts


def test_each_row_takes_the_evaluations_of_its_description(result):
    rows = [str(row) for row in result["row"].values]
    assert {*rows} == {*COUNTS}
    for end in ("least", "most"):
        counted = dict(zip(rows, result[f"evaluations_{end}"].values.tolist(), strict=True))
        assert counted == COUNTS


def test_the_plan_counts_what_the_run_counted(store):
    plan = make_plan(context(*SMALL, f"methods={','.join(COUNTS)}"), find_studies(["methods"]))
    inversions = [p.artifact for p in plan.artifacts if p.artifact.kind == "inversion"]
    assert sum(a.num_evaluations() for a in inversions) == sum(COUNTS.values())
    # Measuring residuals takes one evaluation more for each step that is taken.
    (two,) = [
        p
        for p in plan.artifacts
        if inversion_text(p.artifact) == "ddim K=2 exact" and "latent" in p.variables
    ]
    assert two.sample_evaluations == 48 + 48 and plan.missing_evaluations_of(two) == 8 * 96
    arcs = [p for p in plan.artifacts if p.artifact.kind == "self-interpolation"]
    # Of the first four samples, the first of two shards.
    assert {(p.sample_evaluations, len(p.missing)) for p in arcs} == {(11 * 50, 1)}
    # Rex samples with two evaluations a step, ReNoise in its own 25.
    told = {inversion_text(a.source): a.num_evaluations() for a in (p.artifact for p in plan.artifacts)
            if a.kind == "reconstruction"}  # fmt: skip
    assert told["rex"] == 100 and told["renoise T=25"] == 25 and told["ddim K=2 exact"] == 50
    dear = make_plan(context(*SMALL, "methods=exact-dpm-1"), find_studies(["methods"]))
    assert dear.least_evaluations_missing < dear.evaluations_missing


def test_rows_are_artifacts_that_other_studies_share():
    (methods,), (steps,) = find_studies(["methods"]), find_studies(["more-steps"])
    c = context(model="photo-mixture")
    mine, theirs = methods.requests(c), steps.requests(c)
    assert mine["latent/ddim"].artifact.key == theirs["fixed/50"].artifact.key
    keys = {name: request.artifact.key for name, request in mine.items() if name.startswith("latent/")}
    assert len(set(keys.values())) == len(keys)


def test_one_worker_and_two_store_the_same_bits_and_only_times_differ(store, tmp_path):
    again = run(
        tmp_path / "store", ["methods"], *SMALL, "methods=noise-initialised,edict,renoise-k1", workers=1
    )
    held = {group.name: group for group in store.artifacts()}
    compared = 0
    for group in again.artifacts():
        for name in group.variables:
            for shard in range(group.num_shards):
                if shard and group.artifact.kind == "self-interpolation":
                    continue
                a, b = (g.read_shard(shard, (name,))[name] for g in (group, held[group.name]))
                assert a.tobytes() == b.tobytes(), (group.name, name)
                compared += 1
    # Generation 3 variables, regions 1; three rows with latent, costs (3), image and arc; EDICT carries two states.
    assert compared == 2 * (3 + 1 + 3 * (4 + 1) + 2) + 3  # and three curves of the first shard


def test_what_a_store_says_of_guards_is_what_the_driver_means():
    assert tuple(code.name.lower() for code in Fallback) == variable.FALLBACKS


def test_images_of_an_own_sampler_come_back_through_the_store(result):
    mae = result["mae"].sel(row=["ddim", "edict", "rex"]).values
    # float32 rounding is 6e-8 of 1; EDICT's and Rex's pairs come back to a few times that, DDIM does not.
    assert mae[1] < 1e-6 and mae[2] < 1e-5 and mae[0] > 1e-4


def test_a_residual_is_there_where_a_step_was_taken(store, result):
    residual = result["residual"]
    assert np.isfinite(residual.sel(row="ddim")) and residual.sel(row="fixed-point-5") < residual.sel(
        row="ddim"
    )
    (group,) = [
        g
        for g in store.artifacts()
        if inversion_text(g.artifact) == "ddim K=2 exact" and "latent" in g.variables
    ]
    stored = group.read_samples(0, 8, ("residual", "fallback"))
    assert (stored["residual"][:, :2] == variable.RESIDUAL_NOT_DEFINED).all() and (
        stored["residual"][:, 2:] >= 0
    ).all()
    assert (stored["fallback"] == 0).all()


def test_times_are_measured_and_say_where_and_are_no_part_of_the_result(store, result, report):
    assert "seconds" not in result
    (study,) = find_studies(["methods"])
    told = study.annotate(store, result)
    assert (told["seconds"].values > 0).all()
    assert told["seconds"].attrs["machine"].startswith("one core of ")
    # Two shards of four images each.
    assert all(len(times) == 2 for times in told.attrs["seconds_by_shard"].values())
    shown = value(report[0], "table7", "DDIM inversion", "seconds")["value"]
    assert shown == pytest.approx(1e3 * float(told["seconds"].sel(row="ddim")))


def test_the_arc_starts_at_the_image_and_ends_at_its_ddim_reconstruction(store, result):
    names = {inversion_text(g.artifact): g for g in store.artifacts() if g.artifact.kind == "reconstruction"}
    image = next(g for g in store.artifacts() if g.artifact.kind == "generation").read_samples(
        0, 4, ("image",)
    )["image"]
    for row, told in (("ddim", "ddim"), ("forward-2-exact", "ddim K=2 exact"), ("edict", "edict")):
        arc = result["arc"].sel(row=row)
        back = names[told].read_samples(0, 4, ("reconstruction",))["reconstruction"]
        assert float(arc[0]) == 0
        mae = float(np.abs(back - image).mean())
        # EDICT's own sampler brings the image back, DDIM's does not from its latent.
        assert (
            float(arc[-1]) == pytest.approx(mae, rel=1e-4) if row != "edict" else float(arc[-1]) > 100 * mae
        )


# ---------------------------------------------------------------- report


def test_table_7_has_the_papers_layout(report):
    rows = report[0]
    assert value(rows, "table7", "ReNoise T = 25, K = 1", "evaluations")["value"] == 75
    assert value(rows, "table7", "ReNoise T = 25, K = 1", "evaluations")["T"] == 25
    assert {r["column"] for r in rows if r["item"] == "table7"} == {
        "evaluations", "correlation", "kl", "mae", "lpips", "psnr", "seconds",
    }  # fmt: skip
    assert "Fixed point, 5" not in {r["row"] for r in rows if r["item"] == "table7"}


def test_the_papers_values_are_of_sdxl_and_stand_beside_no_other_model(result, report, store):
    assert not [row for row in report[0] if row["paper"] is not None]
    page = (store.path / "report" / "pages" / "study-methods.html").read_text()
    reference = page[page.index("The paper&#39;s rows of Table 7") :]
    assert "27.58" in reference  # PSNR of DDIM, printed as it stands in the paper
    (study,) = find_studies(["methods"])
    own = study.annotate(store, result).assign_attrs(model="sdxl", model_title="SDXL", name="sdxl")
    (table, *_) = tables_of("SDXL", own, 0, [own])
    assert table.cell("DDIM inversion", "kl").paper.value == pytest.approx(0.89)  # in the column's unit
    assert table.cell("Forward 4 % (exact)", "psnr").paper.value == 25.68
    assert table.cell("Gaussian noise", "kl").paper.value == pytest.approx(0.10)


def test_every_claim_whose_rows_were_asked_has_a_verdict(report):
    ids = {claim["id"] for claim in report[1]}
    # The matched rows were not asked for.
    assert ids == {
        "C7a-exact",
        "C7b-exact",
        "C7c-exact",
        "C7d-exact",
        "C7e",
        "N1-exact",
        "N2-exact",
        "N3-exact",
    }
    (ours,) = [claim for claim in report[1] if claim["id"] == "N1-exact"]
    assert ours["numbers"]["evaluations, ours and theirs"] == [115, 48]
    # 2.4 * 48 = 115.2
    assert ours["numbers"]["evaluations: margin"]["margin"] == pytest.approx(0.2)


def test_a_method_that_diverges_is_in_the_tables_and_said_beside_the_pictures(report, result, store):
    std = float(result["std"].sel(row="bdia-half"))
    assert std > 1e3
    assert value(report[0], "methods-gaussianity", "BDIA, γ = .5", "std")["value"] == pytest.approx(std)
    page = (store.path / "report" / "pages" / "study-methods.html").read_text()
    assert "Diverged, in the tables only: BDIA, γ = .5" in page
    assert not [r for r in report[0] if r["item"] == "methods-tradeoff" and "BDIA" in r["row"]]


def test_the_front_holds_what_nothing_beats_in_both():
    # (1, 5) and (2, 3) and (4, 1) beat the rest: (3, 3) is no better than (2, 3), (5, 2) loses to (4, 1).
    assert front([1, 3, 2, 5, 4, np.nan], [5, 3, 3, 2, 1, 0]) == [0, 2, 4]


def test_times_agree_only_where_their_scatter_allows_it():
    # 50 evaluations in 1 s and 49 in .98 s are one rate; twice the time for the same is not.
    assert proportional([(1.0, 1.0), (0.98, 0.98)], [50, 49])[0] == "holds"
    assert proportional([(1.0, 1.0), (2.0, 2.0)], [50, 50])[0] == "fails"
    assert proportional([(1.0, 1.4), (1.2, 1.2)], [50, 50])[0] == "not resolved"
    assert proportional([(1.0,), (2.0,)], [50, 50])[0] == "not resolved"
