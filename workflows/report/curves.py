"""Curves, bars and the distance heat map.

Axes: S steps, L interpolation weights, K sizes of a sweep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from workflows.report.style import (
    INK,
    LATENT_SYMBOL,
    LINE_STYLES,
    MUTED,
    NOISE_SYMBOL,
    SAMPLE_SYMBOL,
    SEQUENTIAL,
    TEXT_WIDTH,
    color_of,
    new_figure,
    styled,
)

Values = npt.ArrayLike


@dataclass(frozen=True)
class Curve:
    """A line with an optional 95 % band (`low`, `high`) and an optional closed-form curve (`theory`).

    `color` defaults to the fixed colour of the label ("Plain", "Non-plain", "Noise", "Latent", "Sample",
    "Fix"), else to the next of the cycle.
    """

    label: str
    values: Values
    low: Values | None = None
    high: Values | None = None
    theory: Values | None = None
    color: str | None = None
    line: str = "-"


def _panels(titles: Sequence[str], height: float, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    width = TEXT_WIDTH if len(titles) > 1 else 0.62 * TEXT_WIDTH
    figure = new_figure(width, height)
    axes = list(figure.subplots(1, len(titles), squeeze=False, sharey=share_y)[0])
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, loc="left")
    return figure, axes


def _draw_curve(axis: Axes, x: Any, curve: Curve, index: int, marker: str = "") -> None:
    color = curve.color or color_of(curve.label, index)
    axis.plot(x, curve.values, curve.line, color=color, label=curve.label, marker=marker, markersize=4)
    if curve.low is not None and curve.high is not None:
        axis.fill_between(
            x, np.asarray(curve.low), np.asarray(curve.high), color=color, alpha=0.18, linewidth=0
        )
    if curve.theory is not None:
        axis.plot(x, curve.theory, "--", color=color, linewidth=1.0, label=f"{curve.label}, theory")


@styled
def step_curves(
    panels: Mapping[str, Sequence[Curve]],
    ylabel: str,
    *,
    xlabel: str = "inversion step",
    log: bool = False,
    first_fraction: float | None = 0.1,
    reference: float | None = None,
    share_y: bool = False,
    height: float = 2.7,
) -> Figure:
    """Curves over inversion steps 1..S, a panel per model (paper, Fig. 4).

    Bands are 95 % intervals; dashed lines are closed-form values. The first `first_fraction` of the steps is
    shaded; `reference` draws a thin level line (1 for a ratio). Panels keep their own scale unless `share_y`.
    """
    figure, axes = _panels(list(panels), height, share_y)
    for axis, curves in zip(axes, panels.values(), strict=True):
        steps = np.arange(1, len(np.asarray(curves[0].values)) + 1)
        if first_fraction:
            # A step owns the unit interval around it: the shade covers exactly the first steps.
            end = max(1, round(first_fraction * len(steps))) + 0.5
            axis.axvspan(0.5, end, color="#eef1f5", zorder=0, label=f"first {first_fraction:.0%} of steps")
        if reference is not None:
            axis.axhline(reference, color=MUTED, linewidth=0.8)
        for index, curve in enumerate(curves):
            _draw_curve(axis, steps, curve, index)
        axis.set_xlim(0.5, len(steps) + 0.5)
        axis.set_xlabel(xlabel)
        if log:
            axis.set_yscale("log")
    axes[0].set_ylabel(ylabel)
    axes[0].legend()
    return figure


@styled
def sweep_curves(
    panels: Mapping[str, Sequence[Curve]],
    x: Sequence[float],
    *,
    xlabel: str = "replaced inversion steps K",
    ylabels: Sequence[str] = (),
    floors: Sequence[float | None] = (),
    floor_label: str = "noise at this n",
    tick_labels: Sequence[str] | None = None,
    log: Sequence[bool] = (),
) -> Figure:
    """Metrics against a swept quantity, a panel per metric, a line per convention (paper, Tables 4 and 9).

    `floors[i]` is the level of panel i below which nothing can be told from noise. Positions are evenly
    spaced, because K = 0, 1, 2, 5, 10 is a list of cases rather than an axis.
    """
    figure, axes = _panels(list(panels), 2.6)
    positions = np.arange(len(x))
    for number, (axis, curves) in enumerate(zip(axes, panels.values(), strict=True)):
        for index, curve in enumerate(curves):
            # Lines that coincide stay visible: each later one is dashed.
            line = curve.line if curve.line != "-" else LINE_STYLES[min(index, len(LINE_STYLES) - 1)]
            styled_curve = Curve(**{**curve.__dict__, "line": line})
            _draw_curve(axis, positions, styled_curve, index, "os^D"[index % 4])
        floor = floors[number] if number < len(floors) else None
        if floor is not None:
            axis.axhline(floor, color=INK, linewidth=0.9, linestyle=(0, (1, 2)), label=floor_label)
        axis.set_xticks(positions, tick_labels or [f"{value:g}" for value in x])
        axis.set_xlabel(xlabel)
        axis.set_ylabel(ylabels[number] if number < len(ylabels) else "")
        if number < len(log) and log[number]:
            axis.set_yscale("log")
    _legend_above(figure, axes)
    return figure


def _legend_above(figure: Figure, axes: Sequence[Axes]) -> None:
    entries: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if len(entries) > 1:
        columns = min(len(entries), 4)
        figure.legend(list(entries.values()), list(entries), loc="outside upper center", ncols=columns)


@styled
def bars_with_ci(
    labels: Sequence[str],
    series: Mapping[str, Sequence[float]],
    intervals: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    *,
    ylabel: str = "",
    floors: Sequence[float | None] = (),
    floor_label: str = "floor at this n",
    paper: Mapping[str, Sequence[float | None]] | None = None,
    log: bool = False,
) -> Figure:
    """Grouped bars with 95 % intervals; `floors` draws a dotted line across each group.

    `paper` adds a hollow diamond at the paper's value of the same bar.
    """
    height = 2.8
    figure, (axis,) = _panels([""], height)
    figure.set_size_inches(min(TEXT_WIDTH, 1.6 + 0.5 * len(labels) * len(series)), height)
    width = 0.78 / len(series)
    centres = np.arange(len(labels))
    for index, (name, values) in enumerate(series.items()):
        x = centres + (index - (len(series) - 1) / 2) * width
        axis.bar(x, values, 0.92 * width, color=color_of(name, index), label=name)
        if intervals and name in intervals:
            bounds = np.asarray(intervals[name], float).T
            errors = np.abs(bounds - np.asarray(values, float))
            axis.errorbar(x, values, errors, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
        if paper and name in paper:
            marks = [np.nan if value is None else value for value in paper[name]]
            label = "paper" if name == next(iter(paper)) else "_"
            axis.plot(x, marks, "D", mfc="white", mec=INK, markersize=4.5, label=label)
    for index, floor in enumerate(floors):
        if floor is not None:
            label = floor_label if index == 0 else "_"
            ends = (index - 0.44, index + 0.44)
            axis.plot(ends, (floor, floor), ":", color=INK, linewidth=1.2, label=label)
    axis.set_xticks(centres, labels)
    axis.tick_params(axis="x", length=0)
    axis.grid(axis="x", visible=False)
    axis.set_ylabel(ylabel)
    if log:
        axis.set_yscale("log")
    _legend_above(figure, [axis])
    return figure


@styled
def heat_map(
    distances: Mapping[str, Values],
    lambdas: Sequence[float],
    *,
    crossing: Mapping[str, float] | None = None,
    height: float = 2.35,
) -> Figure:
    """Distance of the sampling path to the line from noise to latent (paper, Fig. 3), scaled and raw.

    D(t, l) = mean_i || (1 - l) x_i^T + l x̂_i^T - x_i,t ||_2, an (S + 1, L) array per model, row 0 the noise
    itself (t = T), the last row the image (t = 0). Left: min-max scaled per step, as in the paper. Right: the
    distance itself, with contour lines. The white line is the nearest point per step; `crossing` marks the
    share of the path at which the state comes nearer to the latent than to the noise.
    """
    figure = new_figure(TEXT_WIDTH, height * len(distances))
    axes = figure.subplots(len(distances), 2, squeeze=False, sharex="row", sharey=True)
    for row, (name, values) in enumerate(distances.items()):
        raw = np.asarray(values, float).T
        low, high = raw.min(0, keepdims=True), raw.max(0, keepdims=True)
        scaled = (raw - low) / np.where(high > low, high - low, 1)
        labels = ("distance, scaled per step", r"mean $\ell_2$ distance")
        for axis, field, label in zip(axes[row], (scaled, raw), labels, strict=True):
            _heat_panel(figure, axis, field, lambdas, label)
            if crossing and name in crossing:
                x = crossing[name] * (raw.shape[1] - 1)
                axis.axvline(x, color="white", linestyle=":", linewidth=1.3)
        axes[row, 0].set_ylabel(rf"{name}" + "\n" + r"interpolation $\lambda$")
        axes[row, 0].plot(np.asarray(lambdas)[raw.argmin(0)], color="white", linewidth=1.4)
        _contours(axes[row, 1], raw, lambdas)
    for axis in axes[-1]:
        axis.set_xlabel("denoising step $t$ (sampling runs to the right)")
    return figure


def _heat_panel(figure: Figure, axis: Axes, field: Any, lambdas: Sequence[float], label: str) -> None:
    last = field.shape[1] - 1
    spacing = (lambdas[-1] - lambdas[0]) / max(len(lambdas) - 1, 1) / 2
    extent = (-0.5, last + 0.5, lambdas[0] - spacing, lambdas[-1] + spacing)
    picture = axis.imshow(field, cmap=SEQUENTIAL, origin="lower", aspect="auto", extent=extent)
    axis.grid(False)
    axis.set_yticks((0.2, 0.5, 0.8))
    axis.set_xticks([round(share * last) for share in (0.2, 0.4, 0.6, 0.8)])
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{last - x:g}"))
    box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.8, "edgecolor": "none"}
    style: dict[str, Any] = {"fontsize": 8.5, "color": INK, "bbox": box}
    axis.annotate(NOISE_SYMBOL, (0.02, 0.05), xycoords="axes fraction", va="bottom", **style)
    axis.annotate(LATENT_SYMBOL, (0.02, 0.95), xycoords="axes fraction", va="top", **style)
    axis.annotate(SAMPLE_SYMBOL, (0.98, 0.5), xycoords="axes fraction", ha="right", va="center", **style)
    bar = figure.colorbar(picture, ax=axis, pad=0.02, aspect=14)
    bar.set_label(label)
    bar.outline.set_visible(False)


def _contours(axis: Axes, raw: Any, lambdas: Sequence[float]) -> None:
    if np.ptp(raw) == 0:
        return
    lines = axis.contour(np.arange(raw.shape[1]), lambdas, raw, 6, colors="white", linewidths=0.7)
    axis.clabel(lines, fontsize=6.5, fmt="%.3g")
