"""Trade-offs between Gaussianity, reconstruction and cost; self-interpolation curves; power spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from workflows.analysis.findings import item_context, item_id
from workflows.analysis.presentation import Figure, Row
from workflows.report import plots
from workflows.studies.methods.rows import GROUPS

if TYPE_CHECKING:
    import xarray as xr

# A latent of such a standard deviation has diverged, and would hide every other in a picture.
DIVERGED = 10.0
# What the trade-offs are between: measure, region, axis label.
_PANELS = (
    ("kl_excess", "", "KL per entry above its floor"),
    ("error", "plain", "noise error in plain areas"),
)


def figures_of(
    label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]
) -> tuple[Figure, ...]:
    """The trade-off picture, the curves and the spectra."""
    return (
        _trade_off(label, result, index, results),
        _curves(label, result, index, results),
        _spectra(label, result, index, results),
    )


def _text(result: xr.Dataset, name: str, which: str) -> str:
    return str(result[f"row_{which}"].sel(row=name).item())


def _shown(result: xr.Dataset) -> list[str]:
    return [str(name) for name in result["row"].values if float(result["std"].sel(row=name)) < DIVERGED]


def _left_out(result: xr.Dataset) -> str:
    """A sentence on the rows that are in no picture, "" if there are none."""
    out = [str(name) for name in result["row"].values if str(name) not in _shown(result)]
    told = [f"{_text(result, n, 'label')} (std {float(result['std'].sel(row=n)):.2g})" for n in out]
    return f" Diverged, in the tables only: {', '.join(told)}." if told else ""


def _by_group(result: xr.Dataset) -> Mapping[str, list[str]]:
    names = _shown(result)
    grouped = {group: [n for n in names if _text(result, n, "group") == group] for group in GROUPS}
    return {group: names for group, names in grouped.items() if names}


def _trade_off(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> Figure:
    names = _shown(result)
    whole, result = result, result.sel(row=names)
    panels = [panel for panel in _PANELS if np.isfinite(_values(result, *panel[:2])).any()]

    def draw() -> object:
        return plots.trade_off(
            [_text(result, name, "label") for name in names],
            {text: _values(result, measure, region) for measure, region, text in panels},
            result["mae"].values,
            result["evaluations"].values,
            ylabel="reconstruction error (mean absolute)",
            size_label="evaluations an image",
            squares=result["row_own_sampler"].values,
        )

    values = tuple(
        Row(f"{label} / {_text(result, name, 'label')}", column, float(value))
        for measure, region, column in (
            *_PANELS,
            ("mae", "", "reconstruction error"),
            ("evaluations", "", "NFE"),
        )
        for name, value in zip(names, _values(result, measure, region), strict=True)
    )
    return Figure(
        item_id("methods-tradeoff", index, results),
        f"Gaussianity against reconstruction against cost, {label}",
        "Each method by how far its latents are from noise (left: divergence above its floor; right: error to the true "
        "noise in plain areas) and how well images come back; nearer the lower left is better, larger and darker is "
        "dearer, a square comes back by the method's own sampler. The line joins methods that no other beats in both."
        + _left_out(whole),
        draw,
        **item_context(result),
        values=values,
    )


def _values(result: xr.Dataset, measure: str, region: str) -> np.ndarray:
    found = result[measure]
    return np.asarray((found.sel(region=region) if region else found).values, dtype=float)


def _curves(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> Figure:
    weight = result["weight"].values

    def draw() -> object:
        panels = {
            group: [
                plots.Curve(
                    _text(result, name, "label"),
                    *(result[f"arc{s}"].sel(row=name).values for s in ("", "_low", "_high")),
                )
                for name in names
            ]
            for group, names in _by_group(result).items()
        }
        return plots.curve_grid(
            panels,
            weight,
            labels=("c (0: noise, 1: latent)", "distance to the image"),
            share_y=False,
        )

    return Figure(
        item_id("methods-interpolation", index, results),
        f"Self-interpolation, {label}",
        "Mean |x - x^0| of what the sampler makes of slerp(x^T, x̂^T; c), c from 0 (the true noise) to 1 (the "
        "latent). A latent that stands for its noise stays flat near 0; one that merely reconstructs comes back down "
        "at its end. Bands are 95 % intervals; each panel has its own scale." + _left_out(result),
        draw,
        **item_context(result) | {"n": int(result["arc_samples"])},
    )


def _spectra(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> Figure:
    radius = result["radius"].values
    regions = {"plain": "plain", "non_plain": "other"}

    def draw() -> object:
        panels = {}
        for group, names in _by_group(result).items():
            for region, text in regions.items():
                curves = [
                    plots.Curve(
                        _text(result, name, "label"), result["power"].sel(row=name, region=region).values
                    )
                    for name in names
                ]
                noise = result["power_noise"].sel(region=region).values
                panels[f"{group}, {text}"] = [plots.Curve("Noise", noise, line=":"), *curves]
        return plots.curve_grid(
            panels,
            radius,
            labels=("frequency (cycles an image)", "power"),
            log=(True, True),
            one_legend_a_row=True,
        )

    return Figure(
        item_id("methods-spectra", index, results),
        f"Power spectra of latents by region, {label}",
        "Radial power spectrum of latents cut out by region, per entry of the region; the dotted line is the true "
        "noise under the same masks, which is not quite 1: an image's plain areas choose its noise."
        + _left_out(result),
        draw,
        **item_context(result),
    )
