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
_PANEL_INCHES, _LINE_INCHES, _KEY_COLUMNS = 3.4, 0.15, 3


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
    squares: Sequence[bool] = (),
) -> Figure:
    """Numbered points by two criteria, smaller is better in both, and by cost (area and colour, logarithmic).

    A panel for each criterion along x. Points stand where they are on logarithmic axes; a value of 0 or below stands
    at the edge. The key to the numbers is below. `squares` marks points that are of another kind.
    """
    y, cost = np.asarray(y, float), np.asarray(cost, float)
    lines = -(-len(labels) // _KEY_COLUMNS)
    figure = new_figure(TEXT_WIDTH, _PANEL_INCHES + _LINE_INCHES * (lines + 0.5))
    below = figure.subfigures(2, 1, height_ratios=(_PANEL_INCHES, _LINE_INCHES * (lines + 0.5)))
    axes = below[0].subplots(1, len(panels), squeeze=False, sharey=True)[0]
    low, high = np.nanmin(cost), max(np.nanmax(cost), np.nanmin(cost) * 1.01)
    share = np.log(cost / low) / np.log(high / low)
    square = np.asarray(squares, bool) if len(squares) else np.zeros(len(labels), bool)
    points: Any = None
    for axis, (xlabel, values) in zip(axes, panels.items(), strict=True):
        x, height_of = _positive(values), _positive(y)
        best = front(values, y)
        axis.step(x[best], height_of[best], where="post", color=MUTED, linewidth=1.0, zorder=1)
        for marker, kind in (("o", ~square), ("s", square)):
            points = axis.scatter(
                x[kind],
                height_of[kind],
                _LEAST_AREA + (_LARGEST_AREA - _LEAST_AREA) * share[kind],
                c=cost[kind],
                marker=marker,
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
    """Number the points, each beside its own where the fewest other points and numbers are, joined to it if far."""
    places = _in_points(x, y)
    taken = [place for place in places if np.isfinite(place).all()]
    for i, place in enumerate(places):
        if not np.isfinite(place).all():
            continue
        tried = [place + radius * side for radius in (9.0, 15.0, 22.0) for side in _SIDES]
        crowded = [_crowding(spot, taken) + 0.02 * np.hypot(*(spot - place)) for spot in tried]
        spot = tried[int(np.argmin(crowded))]
        taken.append(spot)
        axis.annotate(
            str(i + 1),
            (x[i], y[i]),
            spot - place,
            textcoords="offset points",
            fontsize=_SMALL,
            ha="center",
            va="center",
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.4, "shrinkA": 1, "shrinkB": 1},
            zorder=3,
        )


_SIDES = [np.array([np.cos(a), np.sin(a)]) for a in np.arange(8) * np.pi / 4]
_PANEL_POINTS = np.array([200.0, 200.0])  # about the size of a panel


def _in_points(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where points of logarithmic axes lie in a panel, (m, 2), typographic points; NaN stays."""
    both = np.log(np.stack([x, y], axis=1))
    low, high = np.nanmin(both, axis=0), np.nanmax(both, axis=0)
    return np.asarray((both - low) / np.where(high > low, high - low, 1.0) * _PANEL_POINTS)


def _crowding(spot: np.ndarray, taken: Sequence[np.ndarray]) -> float:
    """How much of what is drawn lies within a number's width of a place."""
    distance = np.hypot(*(np.asarray(taken) - spot).T)
    return float(np.maximum(0.0, 1 - distance / 9.0).sum())


def _key(panel: Any, labels: Sequence[str], cost: np.ndarray) -> None:
    lines = -(-len(labels) // _KEY_COLUMNS)
    for i, (label, spent) in enumerate(zip(labels, cost, strict=True)):
        column, line = divmod(i, lines)
        place = (0.01 + column / _KEY_COLUMNS, 1 - (line + 0.8) / (lines + 0.5))
        panel.text(*place, f"{i + 1}  {label} ({spent:,.0f})", fontsize=7, ha="left", va="center")


@styled
def curve_grid(
    panels: Mapping[str, Sequence[Curve]],
    x: Values,
    *,
    labels: tuple[str, str],
    log: tuple[bool, bool] = (False, False),
    columns: int = 2,
    one_legend_a_row: bool = False,
    share_y: bool = True,
    height: float = 1.95,
) -> Figure:
    """Panels of curves over x, each with its legend on the right.

    Args:
      labels, log: of x and of y.
      share_y: all panels on one scale.
      one_legend_a_row: the panels of a row show the same curves.
    """
    lines = -(-len(panels) // columns)
    figure = new_figure(TEXT_WIDTH, height * lines + 0.3)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=share_y)
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
            axis.set_xlabel(labels[0])
            axis.tick_params(labelbottom=True)
        if number % columns == 0:
            axis.set_ylabel(labels[1])
    return figure


def _line(axis: Axes, x: Values, curve: Curve, index: int) -> None:
    color = curve.color or color_of(curve.label, index)
    style = curve.line if curve.line != "-" else ("-", "--", "-.")[index // len(CYCLE) % 3]
    axis.plot(x, curve.values, style, color=color, label=curve.label, linewidth=1.2)
    if curve.low is not None and curve.high is not None:
        axis.fill_between(
            x, np.asarray(curve.low), np.asarray(curve.high), color=color, alpha=0.15, linewidth=0
        )
