"""Rows of pictures with a text under each, and in-degrees against norms (paper, Figures 14 and 15)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from workflows.report.grids import image_tiles
from workflows.report.style import COLORS, INK, MUTED, TEXT_WIDTH, color_of, new_figure, styled

_LABEL_WIDTH = 1.15  # inches left of the pictures
_CAPTION_HEIGHT = 0.17  # inches under a picture that has a text


@dataclass(frozen=True)
class PictureRow:
    """One row: what it shows, its images (K, C, H, W) in [-1, 1], and a text under each (or none)."""

    label: str
    images: npt.NDArray[Any]
    texts: Sequence[str] = ()


@styled
def picture_rows(rows: Sequence[PictureRow], gaps: Sequence[int] = ()) -> Figure:
    """Rows of pictures of one size; rows may differ in length. `gaps` are rows with more room above them."""
    columns = max(len(row.images) for row in rows)
    side = min(0.85, (TEXT_WIDTH - _LABEL_WIDTH) / columns)
    heights = [
        side + (_CAPTION_HEIGHT if row.texts else 0.05) + (0.16 if i in gaps else 0)
        for i, row in enumerate(rows)
    ]
    width, height = _LABEL_WIDTH + side * columns, sum(heights)
    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    top = height
    for i, row in enumerate(rows):
        top -= 0.16 if i in gaps else 0
        bottom = top - side
        figure.text(
            (_LABEL_WIDTH - 0.12) / width,
            (bottom + side / 2) / height,
            row.label,
            ha="right",
            va="center",
            color=INK,
        )
        for k, tile in enumerate(image_tiles(row.images)):
            left = _LABEL_WIDTH + k * side
            axis = figure.add_axes((left / width, bottom / height, 0.95 * side / width, 0.95 * side / height))
            axis.imshow(tile, interpolation="none")
            axis.axis("off")
            if row.texts:
                figure.text(
                    (left + 0.475 * side) / width,
                    (bottom - 0.02) / height,
                    row.texts[k],
                    ha="center",
                    va="top",
                    fontsize=7,
                    color=MUTED,
                )
        top = bottom - (_CAPTION_HEIGHT if row.texts else 0.05)
    return figure


@dataclass(frozen=True)
class Accuracy:
    """Percent over T, with the ends of the intervals."""

    value: npt.ArrayLike
    low: npt.ArrayLike
    high: npt.ArrayLike


@styled
def accuracy_curves(
    panels: Mapping[str, Mapping[str, Mapping[str, Accuracy]]],
    steps: Sequence[int],
    guess: float,
    height: float = 2.7,
) -> Figure:
    """Accuracies over T: a panel per pair of states, a colour per direction, a line per metric (l2, cosine)."""
    figure = new_figure(TEXT_WIDTH, height)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    x = np.arange(len(steps))
    for axis, (title, directions) in zip(axes, panels.items(), strict=True):
        for (direction, metrics), color in zip(
            directions.items(), (COLORS["Sample"], COLORS["Latent"]), strict=True
        ):
            for metric, found in metrics.items():
                line, marker = ("-", "o") if metric == "l2" else ("--", "^")
                text = f"{direction}, {'distance' if metric == 'l2' else metric}"
                axis.plot(
                    x, np.asarray(found.value), line, marker=marker, markersize=4, color=color, label=text
                )
                axis.fill_between(
                    x, np.asarray(found.low), np.asarray(found.high), color=color, alpha=0.15, lw=0
                )
        axis.axhline(guess, color=MUTED, linewidth=0.9, linestyle=":", label="a guess")
        axis.set_title(title, loc="left")
        axis.set_xticks(x, [f"{T}" for T in steps])
        axis.set_xlabel("T, sampling and inversion steps")
        axis.set_ylim(-3, 103)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
    axes[0].set_ylabel("found its own, %")
    return figure


@styled
def degree_against_norm(
    norm: npt.ArrayLike,
    degrees: Mapping[str, npt.ArrayLike],
    least_variance: Sequence[int],
    xlabel: str = r"norm of the image, $\|x^0\|_2$",
    height: float = 2.6,
) -> Figure:
    """Queries an image is nearest to against its norm, a panel per kind of query; rings mark least variance."""
    figure = new_figure(TEXT_WIDTH, height)
    axes = figure.subplots(1, len(degrees), squeeze=False, sharex=True, sharey=True)[0]
    x, marked = np.asarray(norm, dtype=float), np.asarray(least_variance, dtype=int)
    for axis, (name, values) in zip(axes, degrees.items(), strict=True):
        y = np.asarray(values, dtype=float)
        color = color_of(name)
        axis.plot(x, y, "o", color=color, markersize=3.5, alpha=0.6, markeredgewidth=0)
        axis.plot(
            x[marked],
            y[marked],
            "o",
            mfc="none",
            mec=INK,
            markersize=7,
            markeredgewidth=0.9,
            label="least variance",
        )
        axis.set_yscale("symlog", linthresh=1)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set_ylim(-0.35, max(2.0, y.max()) * 1.6)
        axis.set_title(f"{name} to image", loc="left")
        axis.set_xlabel(xlabel)
    axes[0].set_ylabel("in-degree")
    axes[0].legend(loc="upper right")
    return figure
