"""What the tables and figures of a sweep of replaced steps share: cells of a rule and K, and the curves over K."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from workflows.analysis.findings import Shown, cell
from workflows.analysis.gaussianity import shown_beside_floor
from workflows.analysis.presentation import Cell, PaperValue
from workflows.report import plots

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

_PANELS = {"correlation": "pixel correlation", "kl": "KL per entry", "mae": "reconstruction error"}


class Units(NamedTuple):
    """By what a table multiplies its measures, and the decimals it shows (1 and 3 where it says nothing)."""

    scales: Mapping[str, float]
    digits: Mapping[str, int]

    def shown(self, result: xr.Dataset, measure: str) -> Shown:
        """How the table shows a measure, its floor beside it."""
        unit = "dB" if measure == "psnr" else ""
        return shown_beside_floor(result, measure, self.scales, self.digits, unit)


def rules_of(result: xr.Dataset) -> list[str]:
    """The rules a result holds: both, or one where shifted levels make them the same."""
    return [str(rule) for rule in result["rule"].values]


def readings_text(result: xr.Dataset) -> str:
    """Under which readings of K a result's steps are replaced, for captions."""
    rules = rules_of(result)
    return "both readings of K" if len(rules) > 1 else f"the {rules[0]} reading of K"


def each_rule_text(result: xr.Dataset) -> str:
    """Whose curves a figure of a result shows, for captions."""
    rules = rules_of(result)
    return "both rules" if len(rules) > 1 else f"{rules[0]} rule"


def noise_cell(result: xr.Dataset, measure: str, units: Units, paper: PaperValue | None = None) -> Cell:
    """A measure of the noise that the images came from."""
    if measure == "mae":
        return Cell(0.0, digits=4, paper=paper)
    if f"{measure}_noise" not in result:
        return Cell(None)
    return cell(result, f"{measure}_noise", units.shown(result, measure), paper=paper)


def latent_cell(
    result: xr.Dataset, measure: str, units: Units, case: tuple[str, int], paper: PaperValue | None = None
) -> Cell:
    """A measure of the latents of one case, a rule and K, beside its closed form where there is one."""
    where = dict(zip(("rule", "forward_steps"), case, strict=True))
    theory = None
    if f"{measure}_theory" in result:
        theory = float(result[f"{measure}_theory"].sel(where)) * units.scales.get(measure, 1.0)
    return cell(result, measure, units.shown(result, measure), theory=theory, paper=paper, **where)


def is_latent(result: xr.Dataset) -> bool:
    """Whether the model works in a latent space, so that reconstructions are compared there."""
    return str(result.attrs.get("domain", "pixel")) == "latent"


def reconstruction_note(result: xr.Dataset) -> str:
    """Where reconstruction errors are measured."""
    if is_latent(result):
        return "Reconstruction error in the model's latent space, not on decoded images."
    return "Reconstruction error on images in [-1, 1]."


def draw_sweep(result: xr.Dataset, xlabel: str = "replaced inversion steps K") -> Figure:
    """Correlation, divergence and reconstruction error over K, a line a rule."""

    def lines(measure: str) -> list[plots.Curve]:
        return [
            plots.Curve(
                f"{rule} rule", *(result[measure + s].sel(rule=rule).values for s in ("", "_low", "_high"))
            )
            for rule in rules_of(result)
        ]

    return plots.sweep_curves(
        {text: lines(measure) for measure, text in _PANELS.items()},
        [int(k) for k in result["forward_steps"].values],
        xlabel=xlabel,
        floors=(float(result["correlation_noise"]), float(result["kl_noise"]), None),
        log=(False, True, False),
    )
