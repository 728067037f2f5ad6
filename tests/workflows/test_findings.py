"""What a stored claim says to its reader."""

import json

import numpy as np
import pytest
import xarray as xr

from taba_core.stats.estimate import Estimate
from workflows.analysis.findings import Findings, cell, claims_of, is_guided, row_labels
from workflows.analysis.presentation import PaperValue


def claim(verdict, numbers, explanation=""):
    found = Findings()
    found.claim("C0", "a > b", verdict, numbers, explanation)
    result = found.dataset().assign_attrs(study="study", model="model", n=100)
    (told,) = claims_of(result)
    return told.explanation


def test_an_unresolved_margin_says_how_many_images_would_decide_it():
    # The interval is 0.02 to each side of a margin of 0.01: half as wide needs 4 times the 100 images.
    unresolved = {"margin": 0.01, "margin_ci95": [-0.01, 0.03]}
    told = "At this margin about 400 images would be needed to decide (--set num_samples=400)."
    assert claim("not resolved", unresolved) == told
    assert claim("not resolved", {"K=1": unresolved}, "Because.") == f"Because. {told}"
    # Of several the one that needs most: 0.04 against 0.01 is 16 times the images, 1,600, to one digit 2,000.
    hardest = {"margin": -0.01, "margin_ci95": [-0.05, 0.03]}
    assert "2,000 images" in claim("not resolved", {"K=1": unresolved, "K=2": hardest})
    # 0.02 against 1e-6 is 4e8 times the images.
    nothing = {"margin": 1e-6, "margin_ci95": [-0.02, 0.02]}
    assert "no affordable number of images" in claim("not resolved", nothing)


@pytest.mark.parametrize(
    ("verdict", "numbers"),
    [
        ("fails", {"margin": 0.01, "margin_ci95": [-0.01, 0.03]}),
        ("not resolved", {"share": 0.2}),
        ("not resolved", {"margin": 0.0, "margin_ci95": [-1.0, 1.0]}),
        ("not resolved", {"margin": float("nan"), "margin_ci95": [float("nan")] * 2}),
    ],
)
def test_nothing_is_added_to_what_is_decided_or_cannot_be_told(verdict, numbers):
    assert claim(verdict, numbers, "As it is.") == "As it is."


def stored_result(name, **settings):
    attrs = {
        "model_title": "DiT",
        "method": "ddim",
        "n": 8,
        "T": 4,
        "seed": 420,
        "conventions": "",
        "name": name,
    }
    result = xr.Dataset({"correlation": ((), 0.5)}).assign_attrs(**attrs, settings={"seed": 420, **settings})
    return result


def test_the_papers_value_stands_beside_no_guided_number():
    paper = PaperValue(0.4, None, "certain")
    plain = {"guidance_scale": 1.0, "inversion_guidance_scale": 1.0}
    for settings in (plain, {}):  # results that were stored before there was a scale
        assert cell(stored_result("dit-correlation-a", **settings), "correlation", paper=paper).paper == paper
    for name in plain:
        guided = stored_result("dit-correlation-a", **plain | {name: 3.0})
        assert is_guided(guided) and cell(guided, "correlation", paper=paper).paper is None


def test_rows_of_one_model_are_told_apart_by_the_scale_and_older_results_count_as_unguided():
    before = stored_result("dit-correlation-a")
    after = stored_result("dit-correlation-b", guidance_scale=1.0, inversion_guidance_scale=1.0)
    guided = stored_result("dit-correlation-c", guidance_scale=3.0, inversion_guidance_scale=1.0)
    assert row_labels([before, guided]) == ["DiT, guidance_scale=1.0", "DiT, guidance_scale=3.0"]
    # Nothing that a setting says tells these two apart: the key does.
    assert row_labels([before, after]) == ["DiT, a", "DiT, b"]


def test_a_claim_of_margins_holds_where_all_are_above_0_and_keeps_each_with_its_interval():
    rng = np.random.default_rng(1)
    above = Estimate(np.float64(2.0), 2.0 + 0.1 * rng.standard_normal(200), "bootstrap", 100)
    around = Estimate(np.float64(0.0), 0.1 * rng.standard_normal(200), "bootstrap", 100)
    verdicts = {}
    for name, margins in (
        ("holds", {"a": above, 2: above}),
        ("fails", {"a": above, "b": -1 * above}),
        ("not resolved", {"a": above, "b": around}),
    ):
        found = Findings()
        found.claim_margins(name, "All are above 0.", margins)
        (claim,) = json.loads(found.dataset().attrs["claims"])
        verdicts[claim["id"]] = claim["verdict"]
        assert list(claim["numbers"]) == [str(key) for key in margins]
        low, high = claim["numbers"]["a"]["margin_ci95"]
        assert claim["numbers"]["a"]["margin"] == 2.0 and 1.7 < low < 2.0 < high < 2.3
    assert verdicts == {name: name for name in verdicts}
