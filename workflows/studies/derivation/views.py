"""The derivation as a table, the law per mode and step, Figure 8, and the law as curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from workflows.analysis.findings import item_context, item_id
from workflows.analysis.presentation import DASH, Cell, Column, Figure, Row, Table
from workflows.report import plots
from workflows.studies.derivation.formulas import DERIVATION, FLOW_DERIVATION, Formula

if TYPE_CHECKING:
    import xarray as xr

_FLAT, _FULL = 1e-4, 1.0
_ALL = 0  # in place of a step: the product over all of them
_LAW_STEPS = (1, 2, 3, 5, 10, 25)


def _context(result: xr.Dataset) -> dict[str, object]:
    """T and the convention of the closed forms; no images are behind them."""
    return {
        "T": int(result.attrs["T"]),
        "conventions": "network_time=target, levels=exact; closed form, no images",
    }


def tables_of(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> tuple[Table, ...]:
    """The derivation line by line, and the law per mode."""
    return (_derivation(label, result, index, results), _law(label, result, index, results))


def _derivation(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> Table:
    T = int(result.attrs["T"])
    lines = FLOW_DERIVATION if "velocity_gain" in result else DERIVATION
    shown = [step for step in (1, 2, 10) if step <= T]
    places = [*((_FLAT, step) for step in (*shown, _ALL)), (_FULL, shown[-1]), (_FULL, _ALL)]
    columns = (
        Column("formula", "Formula"),
        Column("says", "Says"),
        *(
            Column(f"t{step}_{variance:g}", f"t = {step}" if step else "all t", group=_mode_text(variance))
            for variance, step in places
        ),
    )

    def number(line: Formula, variance: float, step: int) -> Cell:
        if line.value is None or line.of_all_steps != (step == _ALL):
            return DASH
        value = result["numbers"].sel(formula=line.name, step=step or T, variance=variance)
        return Cell(float(value), digits=4)

    return Table(
        id=item_id("appendix-e", index, results),
        title=f"Why inversion loses variance, {label}",
        caption="DDIM inversion, its error, and what that does to one mode of variance λ, with the numbers of this "
        "model's levels: a flat mode, of which plain areas consist, and a mode as wide as the noise.",
        row_header="Step",
        rows=tuple(line.name for line in lines),
        columns=columns,
        cells=tuple(
            (Cell(line.formula), Cell(line.says), *(number(line, *place) for place in places))
            for line in lines
        ),
        **_context(result),
    )


def _power(variance: float) -> str:
    """A power of ten as text: 10^{-4}, 1."""
    return "1" if variance == 1 else f"10^{{{round(np.log10(variance))}}}"


def _mode_text(variance: float) -> str:
    return f"{'flat mode, ' if variance < 1 else ''}λ = {_power(variance)}"


def _law(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> Table:
    T = int(result.attrs["T"])
    steps = [step for step in _LAW_STEPS if step <= T]
    marginal = "√((ᾱ_{t-1} λ + 1 - ᾱ_{t-1})/(ᾱ_t λ + 1 - ᾱ_t))"
    if "velocity_gain" in result:
        marginal = "√(((1 - s_{t-1})^2 λ + s_{t-1}^2)/((1 - s_t)^2 λ + s_t^2))"
    laws = {"visited": "ρ_t on the states DDIM visits", "marginal": "ρ_t on exact marginals"}
    columns = (
        *(Column(f"{law}_{s}", f"t = {s}", group=text) for law, text in laws.items() for s in steps),
        Column("std", "Std", group="Latent"),
        Column("error", "Mean |error|", group="Latent"),
    )
    variances = [float(v) for v in result["variance"].values]

    def row(variance: float) -> tuple[Cell, ...]:
        ratios = [
            Cell(float(result[f"law_{law}"].sel(step=s, variance=variance))) for law in laws for s in steps
        ]
        ends = [Cell(float(result[f"latent_{name}"].sel(variance=variance))) for name in ("std", "error")]
        return (*ratios, *ends)

    return Table(
        id=item_id("step-law", index, results),
        title=f"The law of one inversion step per mode, {label}",
        caption="Spread of the inversion's prediction over that of the sampler's, ρ_t, for modes of variance λ: on the "
        f"states DDIM itself visits, (1 - Q_t k_t)/P_t, and on exact marginals, {marginal}. Below 1: too little "
        "spread.",
        row_header="Variance of the mode",
        rows=tuple(f"λ = {_power(variance)}" for variance in variances),
        columns=columns,
        cells=tuple(row(variance) for variance in variances),
        **_context(result),
    )


def schematic() -> Figure:
    """Figure 8; it has no data."""
    return Figure(
        "fig8",
        "One step of sampling and of its inversion",
        "DDIM inversion moves x_{t-1} to x̂_t with the prediction for x_{t-1}, because x_t is what it looks for. The "
        "network's label is the level moved to (target: the paper's Eq. 3, diffusers) or the level come from "
        "(source: guided-diffusion, DPM-Solver).",
        plots.inversion_step_schematic,
    )


def figures_of(
    label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]
) -> tuple[Figure, ...]:
    """The law per mode over steps, and the latent's spread over modes."""

    def draw() -> object:
        from workflows.report.style import SEQUENTIAL

        variances = [float(v) for v in result["variance"].values if v in (1e-6, 1e-4, 1e-2, 1.0)]
        shades = [SEQUENTIAL(x) for x in np.linspace(0.95, 0.2, len(variances))]
        ratio = [
            plots.Curve(
                rf"$\lambda = {_power(v)}$", result["law_visited"].sel(variance=v).values, color=shade
            )
            for v, shade in zip(variances, shades, strict=True)
        ]
        measured = None
        if "ratio" in result:
            measured = plots.Curve(
                "measured, all entries", *(result[f"ratio{end}"].values for end in ("", "_low", "_high"))
            )
        counts = [int(T) for T in result["inversion_steps"].values]
        shades = [SEQUENTIAL(x) for x in np.linspace(0.2, 0.95, len(counts))]
        std = {
            name: [
                plots.Curve(
                    f"T = {T}",
                    result[f"swept_std_{name}"].sel(inversion_steps=T).values,
                    color=shade,
                    line=line,
                )
                for T, shade in zip(counts, shades, strict=True)
            ]
            for name, line in (("target", "-"), ("source", ":"))
        }
        return plots.step_law_panels(
            ratio, measured, result["swept_variance"].values, std["target"], std["source"]
        )

    values = tuple(
        Row(
            f"{label}, λ = {float(v):g}",
            f"ρ step {int(step)}",
            float(result["law_visited"].sel(variance=v, step=step)),
        )
        for v in result["variance"].values
        for step in result["step"].values
    )
    if "ratio" in result:
        values += tuple(
            Row(
                f"{label}, all entries",
                f"ρ step {int(step)}",
                float(result["ratio"].sel(step=step)),
                ci95=(float(result["ratio_low"].sel(step=step)), float(result["ratio_high"].sel(step=step))),
                theory=float(result["ratio_law"].sel(step=step)),
            )
            for step in result["step"].values
        )
    return (
        Figure(
            item_id("step-law-curves", index, results),
            f"Where the variance is lost, {label}",
            "Left: spread of the inversion's prediction over the sampler's per step, for modes of variance λ in closed "
            "form, and measured over all entries. Right: standard deviation of the latent of a mode of variance λ "
            "after T steps (solid: target label, dotted: source label); noise has 1.",
            draw,
            **item_context(result),
            values=values,
        ),
    )
