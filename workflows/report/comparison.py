"""Many methods in one picture: trade-offs as scatter, and curves in a grid of panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from workflows.report.curves import Curve, Values
from workflows.report.style import CYCLE, INK, MUTED, SEQUENTIAL, TEXT_WIDTH, color_of, new_figure, styled

_SMALL = 6.5
_LARGEST_AREA, _LEAST_AREA = 190.0, 22.0  # points squared


def front(x: Values, y: Values) -> list[int]:
    """Positions of the points that no other beats in both, by x ascending; what is no number is left out."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    order = np.lexsort((y, x))
    kept: list[int] = []
    lowest = np.inf
    for i in order[np.isfinite(x[order]) & np.isfinite(y[order])]:
        if y[i] < lowest:
            kept.append(int(i))
            lowest = y[i]
    return kept


@styled
def trade_off(
    labels: Sequence[str],
    panels: Mapping[str, Values],
    y: Values,
    cost: Values,
    *,
    ylabel: str,
    size_label: str,
    height: float = 5.2,
) -> Figure:
    """Numbered points by two criteria, smaller is better in both, and by cost (area and colour, logarithmic).

    A panel for each criterion along x. Points stand where they are on logarithmic axes; a value of 0 or below stands
    at the edge. The key to the numbers is below.
    """
    y, cost = np.asarray(y, float), np.asarray(cost, float)
    figure = new_figure(TEXT_WIDTH, height)
    below = figure.subfigures(2, 1, height_ratios=(1.0, 0.09 + 0.035 * len(labels)))
    axes = below[0].subplots(1, len(panels), squeeze=False, sharey=True)[0]
    low, high = np.nanmin(cost), max(np.nanmax(cost), np.nanmin(cost) * 1.01)
    share = np.log(cost / low) / np.log(high / low)
    points: Any = None
    for axis, (xlabel, values) in zip(axes, panels.items(), strict=True):
        x, height_of = _positive(values), _positive(y)
        best = front(values, y)
        axis.step(x[best], height_of[best], where="post", color=MUTED, linewidth=1.0, zorder=1)
        points = axis.scatter(
            x,
            height_of,
            _LEAST_AREA + (_LARGEST_AREA - _LEAST_AREA) * share,
            c=cost,
            cmap=SEQUENTIAL,
            norm=LogNorm(low, high),
            edgecolors=INK,
            linewidths=0.5,
            zorder=2,
        )
        _number(axis, x, height_of)
        axis.set(xscale="log", yscale="log", xlabel=xlabel)
    axes[0].set_ylabel(ylabel)
    bar = below[0].colorbar(points, ax=list(axes), pad=0.01, aspect=28)
    bar.set_label(size_label)
    bar.outline.set_visible(False)
    _key(below[1], labels, cost)
    return figure


def _positive(values: Values) -> np.ndarray:
    """Values for a logarithmic axis: what is not above 0 goes to half the smallest that is."""
    array = np.asarray(values, float)
    above = array[array > 0]
    least = above.min() / 2 if above.size else 1.0
    return np.where(np.isnan(array), np.nan, np.maximum(array, least))


def _number(axis: Axes, x: np.ndarray, y: np.ndarray) -> None:
    for i, (left, bottom) in enumerate(zip(x, y, strict=True)):
        if np.isfinite(left) and np.isfinite(bottom):
            # Neighbours in the list often lie close together: their numbers go to different sides.
            across, up = ((5, 4), (-5, 4), (5, -9), (-5, -9))[i % 4]
            axis.annotate(
                str(i + 1),
                (left, bottom),
                (across, up),
                textcoords="offset points",
                fontsize=_SMALL,
                ha="left" if across > 0 else "right",
                zorder=3,
            )


def _key(panel: Any, labels: Sequence[str], cost: np.ndarray, columns: int = 3) -> None:
    lines = -(-len(labels) // columns)
    for i, (label, spent) in enumerate(zip(labels, cost, strict=True)):
        column, line = divmod(i, lines)
        place = (0.01 + column / columns, 1 - (line + 0.8) / (lines + 0.5))
        panel.text(*place, f"{i + 1}  {label} ({spent:,.0f})", fontsize=7, ha="left", va="center")


@styled
def curve_grid(
    panels: Mapping[str, Sequence[Curve]],
    x: Values,
    *,
    xlabel: str,
    ylabel: str,
    log: tuple[bool, bool] = (False, False),
    columns: int = 2,
    one_legend_a_row: bool = False,
    height: float = 1.95,
) -> Figure:
    """Panels of curves over x on common axes, each with its legend on the right.

    Args:
      log: of x and of y.
      one_legend_a_row: the panels of a row show the same curves.
    """
    lines = -(-len(panels) // columns)
    figure = new_figure(TEXT_WIDTH, height * lines + 0.3)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axis in grid.flat[len(panels) :]:
        axis.set_visible(False)
    for number, (axis, (title, curves)) in enumerate(zip(grid.flat, panels.items(), strict=False)):
        axis.set_title(title, loc="left", fontsize=8)
        for index, curve in enumerate(curves):
            _line(axis, x, curve, index)
        axis.set(xscale="log" if log[0] else "linear", yscale="log" if log[1] else "linear")
        if not one_legend_a_row or number % columns == columns - 1:
            axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=_SMALL, handlelength=1.6)
        if number + columns >= len(panels):
            axis.set_xlabel(xlabel)
            axis.tick_params(labelbottom=True)
        if number % columns == 0:
            axis.set_ylabel(ylabel)
    return figure


def _line(axis: Axes, x: Values, curve: Curve, index: int) -> None:
    color = curve.color or color_of(curve.label, index)
    style = curve.line if curve.line != "-" else ("-", "--", "-.")[index // len(CYCLE) % 3]
    axis.plot(x, curve.values, style, color=color, label=curve.label, linewidth=1.2)
    if curve.low is not None and curve.high is not None:
        axis.fill_between(
            x, np.asarray(curve.low), np.asarray(curve.high), color=color, alpha=0.15, linewidth=0
        )
