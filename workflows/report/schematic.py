"""The schematic of one inversion step (paper, Fig. 8) as a vector drawing, with both conventions of the label.

Coordinates of a panel: x is the noise level, 0..10 from clean to noisy; y only keeps things apart.
"""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

from workflows.report.style import COLORS, INK, MUTED, TEXT_WIDTH, new_figure, styled

Point = tuple[float, float]

_LOW, _HIGH = 2.0, 8.0  # where levels t-1 and t stand
_TRUE, _MADE, _AXIS = 4.35, 2.05, 0.62  # heights of the sampling path, of the inversion, of the level axis
_RADIUS = 0.52
_SAMPLING, _INVERSION, _LABEL = COLORS["Sample"], COLORS["Latent"], COLORS["Noise"]

_PANELS = (
    ("Target label (Eq. 3)", "the network is given the level it moves to", r"$\epsilon(x_{t-1},\,t)$", _HIGH),
    ("Source label", "the network is given the level it comes from", r"$\epsilon(x_{t-1},\,t{-}1)$", _LOW),
)


@styled
def inversion_step_schematic() -> Figure:
    """One step of sampling and the inversion step that approximates its inverse, a panel per label convention.

    Sampling goes from x_t to x_{t-1} with eps(x_t, t). Inverting it needs the same prediction, but only x_{t-1} is
    known: the state put into the network is another (purple), and so is the label under the source convention
    (orange, dashed).
    """
    figure = new_figure(TEXT_WIDTH, 2.75)
    for axis, (title, text, prediction, label_level) in zip(figure.subplots(1, 2), _PANELS, strict=True):
        axis.set_xlim(0.2, 9.9)
        axis.set_ylim(-0.35, 6.15)
        axis.set_aspect("equal")
        axis.axis("off")
        axis.set_title(title, loc="left")
        axis.text(0.2, 5.72, text, color=MUTED, fontsize=7.5, va="center")
        _levels(axis)
        _sampling(axis)
        _inversion(axis, prediction, label_level)
        _states(axis)
    return figure


def _levels(axis: Axes) -> None:
    _arrow(axis, (0.5, _AXIS), (9.7, _AXIS), MUTED, linewidth=0.9)
    axis.text(9.75, _AXIS + 0.22, "noise level", color=MUTED, fontsize=7, ha="right", va="bottom")
    for x, name in ((_LOW, "$t-1$"), (_HIGH, "$t$")):
        axis.plot((x, x), (_AXIS - 0.14, _AXIS + 0.14), color=MUTED, linewidth=0.9)
        axis.text(x, _AXIS - 0.28, name, ha="center", va="top")


def _sampling(axis: Axes) -> None:
    _arrow(axis, (_HIGH - _RADIUS, _TRUE), (_LOW + _RADIUS, _TRUE), _SAMPLING)
    _network(axis, (5.0, _TRUE), r"$\epsilon(x_t,\,t)$", _SAMPLING)
    axis.text(5.0, _TRUE + 0.72, "DDIM sampling", color=_SAMPLING, fontsize=7.5, ha="center", va="center")


def _inversion(axis: Axes, prediction: str, label_level: float) -> None:
    start = (_LOW, _TRUE - _RADIUS)
    _arrow(axis, start, (3.5, _MADE), _INVERSION, bend="angle3,angleA=-90,angleB=180", arrowstyle="-")
    _arrow(axis, (3.4, _MADE), (_HIGH - _RADIUS, _MADE), _INVERSION)
    _network(axis, (5.0, _MADE), prediction, _INVERSION)
    text = {"fontsize": 7.5, "ha": "center", "va": "center"}
    axis.text(5.0, _MADE + 0.72, "DDIM inversion", color=_INVERSION, **text)
    # The label comes from the level axis: that is all the two conventions differ in.
    side = 1 if label_level > 5 else -1
    start, end = (label_level - 0.15 * side, _AXIS + 0.2), (5.0 + 0.85 * side, _MADE - 0.46)
    bend = f"arc3,rad={-0.22 * side}"
    _arrow(axis, start, end, _LABEL, bend=bend, linestyle=(0, (3, 2)), linewidth=1.2)
    axis.text(5.0, _AXIS + 0.4, "label", color=_LABEL, **text)


def _states(axis: Axes) -> None:
    _state(axis, (_LOW, _TRUE), "$x_{t-1}$", INK)
    _state(axis, (_HIGH, _TRUE), "$x_t$", INK)
    _state(axis, (_HIGH, _MADE), r"$\hat{x}_t$", _INVERSION)
    ends = ((_HIGH, _TRUE - _RADIUS), (_HIGH, _MADE + _RADIUS))
    _arrow(axis, *ends, COLORS["Plain"], arrowstyle="<|-|>", linewidth=1.0, mutation_scale=6)
    axis.text(8.2, (_TRUE + _MADE) / 2, "error", color=COLORS["Plain"], fontsize=7.5, va="center")


def _state(axis: Axes, centre: Point, text: str, color: str) -> None:
    axis.add_patch(Circle(centre, _RADIUS, facecolor="white", edgecolor=color, linewidth=1.3, zorder=3))
    axis.text(*centre, text, ha="center", va="center", color=color, zorder=4)


def _network(axis: Axes, centre: Point, text: str, color: str) -> None:
    width, height = 2.5, 0.84
    corner = (centre[0] - width / 2, centre[1] - height / 2)
    style = "round,pad=0,rounding_size=0.18"
    box = FancyBboxPatch(
        corner, width, height, style, facecolor="white", edgecolor=color, linewidth=1.3, zorder=3
    )
    axis.add_patch(box)
    axis.text(*centre, text, ha="center", va="center", zorder=4)


def _arrow(axis: Axes, start: Point, end: Point, color: str, *, bend: str = "arc3", **look: Any) -> None:
    """An arrow from start to end; `look` as `FancyArrowPatch` takes it."""
    look = {"arrowstyle": "-|>", "mutation_scale": 9, "linewidth": 1.4} | look
    axis.add_patch(
        FancyArrowPatch(start, end, connectionstyle=bend, shrinkA=0, shrinkB=0, color=color, zorder=2, **look)
    )
