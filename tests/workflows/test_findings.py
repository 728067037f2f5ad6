"""What a stored claim says to its reader."""

import pytest

from workflows.analysis.findings import Findings, claims_of


def claim(verdict, numbers, explanation=""):
    found = Findings()
    found.claim("C0", "a > b", verdict, numbers, explanation)
    result = found.dataset().assign_attrs(study="study", model="model", n=100)
    (told,) = claims_of(result)
    return told.explanation


def test_an_unresolved_margin_says_how_many_images_would_decide_it():
    # The interval is 0.02 to each side of a margin of 0.01: half as wide needs 4 times the 100 images.
    unresolved = {"margin": 0.01, "margin_ci95": [-0.01, 0.03]}
    told = "At this margin about 400 images would be needed to decide."
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
