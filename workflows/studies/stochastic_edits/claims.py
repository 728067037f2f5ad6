"""Claim CF13 (paper, Appendix M), and what we ask beside it: do variants keep the photograph, and show the target?"""

from __future__ import annotations

from collections.abc import Mapping

from taba_core.stats.estimate import Estimate
from taba_core.stats.verdict import positive
from workflows.analysis.edit_measures import ALIGNMENT, MAE, distance_measure, measure_named
from workflows.analysis.findings import Findings, interval_numbers
from workflows.studies.stochastic_edits.measures import BETWEEN, SOURCE, Measured, column_measure
from workflows.studies.stochastic_edits.variants import FRESH, LATENT, REPAIRED

_AS_FAR = 1.5  # times the reconstruction error of plain inversion that the paper's repair stays below


def find_claims(
    found: Findings, by_share: Mapping[float, Measured], errors: Mapping[str, Mapping[str, Estimate]]
) -> None:
    """Test the claims on intervals over images, once for each switch share and measure."""
    for share, measured in by_share.items():
        for column, estimate in measured[REPAIRED].items():
            kind, _, name = column.partition("/")
            if kind == BETWEEN and name != MAE.name:  # that one is ours, and no measure of the paper's
                _differ(found, share, name, estimate[0])
        _keep_the_photograph(found, share, measured)
        _show_the_target(found, share, measured)
    _reconstruct(found, errors)


def _differ(found: Findings, share: float, name: str, between: Estimate) -> None:
    measure = distance_measure(name)
    found.claim(
        f"CF13a{'~' if measure.proxy else ''}-{name}-{share:g}",
        "Edits of one photograph from latents repaired with different noise differ: their mean distance by pairs is "
        f"above 0 by {measure.label}, target from {share:.0%} of the steps on"
        + (f" (stand-in for {measure.proxy})." if measure.proxy else "."),
        positive(between),
        interval_numbers("margin", between),
        "Edits from the latent of plain inversion do not differ at all: nothing is drawn there.",
    )


def _reconstruct(found: Findings, errors: Mapping[str, Mapping[str, Estimate]]) -> None:
    plain = errors[LATENT][MAE.name][0]
    margins = {name: _AS_FAR * plain - error[MAE.name][0] for name, error in errors.items() if name != LATENT}
    found.claim_margins(
        "CF13b",
        f"Every repaired latent reconstructs its photograph with at most {_AS_FAR:g} times the mean absolute error of "
        "plain inversion.",
        margins,
    )


def _keep_the_photograph(found: Findings, share: float, measured: Measured) -> None:
    margins = {
        column: measured[FRESH][column][0] - estimate[0]
        for column, estimate in measured[REPAIRED].items()
        if column.startswith(f"{SOURCE}/")
    }
    _every_margin(
        found,
        f"keep-the-photograph-{share:g}",
        "Ours: edits from repaired latents are nearer to their photograph than edits from fresh noise, by every "
        f"distance, target from {share:.0%} of the steps on.",
        margins,
    )


def _show_the_target(found: Findings, share: float, measured: Measured) -> None:
    margins = {
        name: estimate[0] - measured[LATENT][name][0]
        for name, estimate in measured[REPAIRED].items()
        if "/" not in name and _asks_for_target(name)
    }
    if margins:
        _every_margin(
            found,
            f"show-the-target-{share:g}",
            "Ours: edits from repaired latents show the target more than edits from the latent of plain inversion, by "
            f"every judge, target from {share:.0%} of the steps on.",
            margins,
        )


def _every_margin(found: Findings, name: str, statement: str, margins: Mapping[str, Estimate]) -> None:
    """A claim that holds if the margin of every column is above 0."""
    found.claim_margins(
        name, statement, {column_measure(column).label: margin for column, margin in margins.items()}
    )


def _asks_for_target(name: str) -> bool:
    measure = measure_named(name)
    return measure.group == ALIGNMENT and name.endswith("_target") and not measure.follows
