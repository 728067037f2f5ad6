"""Curves over a training, whose checkpoints lie densely at its start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from workflows.report.curves import Curve
from workflows.report.style import MUTED, TEXT_WIDTH, color_of, new_figure, styled

_FEW_DECADES = 5  # of which 3, 30, ... are ticks too
_MARKED = 40  # checkpoints, above which points would be a line
_BESIDE = "_"  # a label that starts with it is in no legend


@styled
def progress_curves(
    panels: Mapping[str, Sequence[Curve]],
    images: npt.ArrayLike,
    *,
    ylabels: Sequence[str] = (),
    log: Sequence[bool] = (),
    shares: Sequence[float] = (),
    bounds: Sequence[tuple[float, float] | None] = (),
    height: float = 2.7,
) -> Figure:
    """Panels of curves over the images seen, on a logarithmic axis that has room for 0.

    Args:
      panels: curves by title, each with a value a checkpoint. A curve whose label starts with "_" is drawn thin and
        without an entry in the legend, in the colour it says: one training among several.
      images: images seen at the checkpoints, ascending, (s,).
      log: whether the y axis of a panel is logarithmic.
      shares: of the whole training, at which a dotted line stands.
      bounds: ends of the y axis of a panel; None: what the curves need.
    """
    seen = np.asarray(images, dtype=np.float64)
    width = TEXT_WIDTH if len(panels) > 1 else 0.62 * TEXT_WIDTH
    figure = new_figure(width, height)
    axes = list(figure.subplots(1, len(panels), squeeze=False)[0])
    for number, (axis, (title, curves)) in enumerate(zip(axes, panels.items(), strict=True)):
        axis.set_title(title, loc="left")
        for index, curve in enumerate(curves):
            _draw(axis, seen, curve, index)
        for share in shares:
            axis.axvline(share * seen[-1], color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)
        _images_axis(axis, seen)
        axis.set_ylabel(ylabels[number] if number < len(ylabels) else "")
        if number < len(log) and log[number] and _has_positive(curves):
            _log_scale(axis)
        if number < len(bounds) and bounds[number] is not None:
            axis.set_ylim(bounds[number])
        if len([curve for curve in curves if not curve.label.startswith(_BESIDE)]) > 1:
            axis.legend()
    return figure


def _draw(axis: Axes, x: Any, curve: Curve, index: int) -> None:
    color = curve.color or color_of(curve.label, index)
    beside = curve.label.startswith(_BESIDE)
    marker = "" if beside or len(x) > _MARKED else "o"
    style: dict[str, Any] = {"color": color, "label": curve.label, "linewidth": 0.7 if beside else 1.6}
    axis.plot(x, curve.values, curve.line, marker=marker, markersize=3, **style)
    if curve.low is not None and curve.high is not None:
        axis.fill_between(
            x, np.asarray(curve.low), np.asarray(curve.high), color=color, alpha=0.18, linewidth=0
        )


def _images_axis(axis: Axes, seen: npt.NDArray[np.float64]) -> None:
    """Logarithmic from the first images on, and linear from 0 to there."""
    positive = seen[seen > 0]
    first, last = (float(positive[0]), float(positive[-1])) if positive.size else (1.0, 1.0)
    axis.set_xscale("symlog", linthresh=first, linscale=0.5)
    axis.set_xlim(left=0 if seen[0] == 0 else first)
    decades = [10.0**k for k in range(int(np.floor(np.log10(first))), int(np.log10(last)) + 1)]
    steps = (1, 3) if len(decades) < _FEW_DECADES else (1,)
    ticks = [m * ten for ten in decades for m in steps if first <= m * ten <= last]
    ticks = [*([] if seen[0] else [0.0]), *(ticks or [first])]
    axis.set_xticks(ticks, [_count(value) for value in ticks])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("images seen")


def _has_positive(curves: Sequence[Curve]) -> bool:
    """Whether there is anything to draw on a logarithmic axis."""
    return any((np.nan_to_num(np.asarray(curve.values, dtype=np.float64)) > 0).any() for curve in curves)


def _log_scale(axis: Axes) -> None:
    """Logarithmic, with plain numbers where it spans less than a decade and powers of ten would name nothing."""
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    if high < 10 * low:
        axis.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _count(value: float) -> str:
    """1000 as 1k, 2000000 as 2M."""
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"
