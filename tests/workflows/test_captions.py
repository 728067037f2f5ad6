"""Captions and context of items that show several results: every result's own values, where they differ."""

import numpy as np
import xarray as xr

from workflows.findings import each_own, shared_context
from workflows.studies.correlation import _table2
from workflows.studies.step_error import _table11


def result(**settings):
    attrs = {
        "n": 64,
        "T": settings.get("T", 50),
        "seed": 0,
        "conventions": "reference",
        "model_title": settings.get("title", "A"),
        "settings": {"top_k": 20, "patch_size": 8} | settings,
    }
    numbers = {
        f"correlation_{o}{end}": ((), 0.5) for o in ("noise", "latent", "image") for end in ("", "_spread")
    }
    regions = {"region": ["plain", "non_plain"], "interval": ["first", "rest", "all"]}
    return xr.Dataset(
        {
            **numbers,
            "correlation_floor": ((), 0.1),
            "first_steps": ((), settings.get("first_steps", 5)),
            "interval_error": (("region", "interval"), np.ones((2, 3))),
            "first_share": (("region",), np.ones(2)),
        },
        regions,
        attrs,
    )


def test_a_caption_names_the_k_and_the_patch_of_every_model():
    labels, first = ["A", "B"], result()
    same = _table2(labels, [first, result()])
    assert (
        "Mean of the 20 largest absolute Pearson correlations between positions of a 8×8 patch"
        in same.caption
    )
    other = _table2(labels, [first, result(top_k=5, patch_size=4)])
    assert "Mean of the 20 (A), 5 (B) largest" in other.caption
    assert "positions of a 8×8 (A), 4×4 (B) patch" in other.caption


def test_a_table_of_first_steps_names_the_share_of_every_model():
    labels = ["A", "B"]
    same = _table11(labels, [result(), result(T=20, first_steps=2)])  # 5 of 50, 2 of 20
    assert {"first 10% of the steps", "share of the first 10%"} <= set(same.row_groups)
    other = _table11(labels, [result(), result(T=4, first_steps=1)])
    assert "The first steps are the first 10% (A), 25% (B) of all." in other.caption
    assert {"first steps", "share of the first steps"} <= set(other.row_groups)
    assert not any("10%" in group for group in other.row_groups)


def test_results_of_one_text_are_named_together():
    assert each_own(["A", "B"], ["k", "k"]) == "k" and each_own([], []) == ""
    assert each_own(["A", "B", "C"], ["8×8", "4×4", "8×8"]) == "8×8 (A; C), 4×4 (B)"


def test_a_figure_of_several_results_states_only_what_they_share():
    assert shared_context([result(), result(T=20)]) == {"n": 64, "T": None, "conventions": "reference"}
