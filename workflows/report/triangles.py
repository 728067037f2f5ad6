"""Drawn triangles and histograms of their angles (paper, Figures 10 and 11).

Vertices in the order image x_0, noise x_T, latent x̂_T.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc

from workflows.report.style import (
    COLORS,
    INK,
    LATENT_SYMBOL,
    MUTED,
    NOISE_SYMBOL,
    SAMPLE_SYMBOL,
    TEXT_WIDTH,
    new_figure,
    styled,
)

_VERTICES = (
    (SAMPLE_SYMBOL, COLORS["Sample"]),
    (NOISE_SYMBOL, COLORS["Noise"]),
    (LATENT_SYMBOL, COLORS["Latent"]),
)


@dataclass(frozen=True)
class Drawn:
    """A triangle to draw: its angles in degrees, and the length of its sides where they are known.

    angles: at image, noise, latent. sides: image-latent, image-noise, noise-latent. The drawing has these angles and
    the true length image-noise, so that triangles of one figure compare.
    """

    angles: Sequence[float]
    sides: Sequence[float]

    def corners(self) -> npt.NDArray[np.float64]:
        """Positions (3, 2): noise at the origin, image to the right of it, latent above."""
        at_image, at_noise, at_latent = np.radians(np.asarray(self.angles, dtype=float))
        base = self.sides[1]
        to_latent = base * np.sin(at_image) / np.sin(at_latent)
        latent = to_latent * np.array([np.cos(at_noise), np.sin(at_noise)])
        return np.array([[base, 0.0], [0.0, 0.0], latent])


@styled
def triangle_panels(triangles: Mapping[str, Drawn]) -> Figure:
    """Triangles to one scale, a panel each (Figure 10): angles in the corners, mean lengths along the sides."""
    count = len(triangles)
    corners = {name: triangle.corners() for name, triangle in triangles.items()}
    span = np.ptp(np.concatenate(list(corners.values())), axis=0)
    width = TEXT_WIDTH if count > 1 else 0.62 * TEXT_WIDTH
    height = min(4.0, 0.55 + 1.25 * width / count * span[1] / span[0])
    figure = new_figure(width, height)
    axes = figure.subplots(1, count, squeeze=False, sharex=True, sharey=True)[0]
    for axis, (name, triangle) in zip(axes, triangles.items(), strict=True):
        axis.set_title(name, loc="left")
        _triangle(axis, corners[name], triangle, span)
    return figure


def _triangle(
    axis: Axes, corners: npt.NDArray[np.float64], triangle: Drawn, span: npt.NDArray[np.float64]
) -> None:
    centre = corners.mean(axis=0)
    axis.fill(*corners.T, facecolor="#eef1f5", edgecolor=INK, linewidth=1.2, joinstyle="round", zorder=1)
    ends = ((0, 2), (0, 1), (1, 2))  # of the sides image-latent, image-noise, noise-latent
    for (i, j), length in zip(ends, triangle.sides, strict=True):
        middle = (corners[i] + corners[j]) / 2
        away = middle - centre
        axis.annotate(
            f"{length:.1f}",
            middle + 0.06 * span[0] * away / np.linalg.norm(away),
            ha="center",
            va="center",
            fontsize=7.5,
            color=MUTED,
        )
    for k, (symbol, color) in enumerate(_VERTICES):
        _corner(axis, corners, k, f"{triangle.angles[k]:.0f}°", color, span[0])
        axis.plot(*corners[k], "o", color=color, markersize=6, zorder=3)
        away = corners[k] - centre
        place = corners[k] + 0.085 * span[0] * away / np.linalg.norm(away)
        axis.annotate(symbol, place, ha="center", va="center", fontsize=11, color=color)
    axis.set_aspect("equal")
    axis.axis("off")
    pad = 0.13 * span[0]
    axis.set_xlim(-pad, span[0] + pad)
    axis.set_ylim(-pad, span[1] + pad)


def _corner(
    axis: Axes, corners: npt.NDArray[np.float64], k: int, text: str, color: str, scale: float
) -> None:
    """The arc of an angle inside the triangle, and its degrees on the bisector."""
    rays = corners[[i for i in range(3) if i != k]] - corners[k]
    first, second = np.degrees(np.arctan2(rays[:, 1], rays[:, 0]))
    start, end = (first, second) if (second - first) % 360 <= 180 else (second, first)
    shortest = np.linalg.norm(rays, axis=1).min()
    radius = min(0.13 * scale, 0.4 * shortest)
    axis.add_patch(
        Arc(
            corners[k], 2 * radius, 2 * radius, theta1=start, theta2=end, color=color, linewidth=1.4, zorder=2
        )
    )
    bisector = np.radians(start + ((end - start) % 360) / 2)
    # A wide angle has room for its number inside the arc, a narrow one only beyond it.
    reach = 0.55 if (end - start) % 360 > 80 else 1.6
    place = corners[k] + reach * radius * np.array([np.cos(bisector), np.sin(bisector)])
    axis.annotate(text, place, ha="center", va="center", fontsize=8, color=INK)


@dataclass(frozen=True)
class AngleCounts:
    """Counts (3, 181) over whole degrees at image, noise, latent, and the most probable angles (3,)."""

    counts: npt.ArrayLike
    most_probable: Sequence[float]


@styled
def angle_histograms(panels: Mapping[str, AngleCounts], height: float = 2.5) -> Figure:
    """Histograms of the three angles over 1-degree bins, a panel per model (Figure 11).

    The ticks below the axis are the most probable triangle.
    """
    figure = new_figure(TEXT_WIDTH if len(panels) > 1 else 0.8 * TEXT_WIDTH, height)
    axes = figure.subplots(1, len(panels), squeeze=False, sharex=True)[0]
    degrees = np.arange(-0.5, 181.5)
    used = np.flatnonzero(sum(np.asarray(panel.counts).sum(axis=0) for panel in panels.values()))
    for axis, (name, panel) in zip(axes, panels.items(), strict=True):
        axis.set_title(name, loc="left")
        counts = np.asarray(panel.counts)
        for row, angle, (symbol, color) in zip(counts, panel.most_probable, _VERTICES, strict=True):
            label = f"at {symbol}: {angle:.0f}°" if np.isfinite(angle) else f"at {symbol}"
            axis.stairs(row, degrees, fill=True, color=color, alpha=0.35)
            axis.stairs(row, degrees, color=color, linewidth=1.0, label=label)
            axis.plot([angle], [0], marker=6, color=color, markersize=7, clip_on=False, zorder=4)
        axis.set_xlabel("angle, degrees")
        axis.grid(axis="x", visible=False)
        if used.size:
            axis.set_xlim(max(used[0] - 4, -0.5), min(used[-1] + 4, 180.5))
        axis.set_ylim(0, max(1, counts.max()) * 1.25)
        axis.legend(ncols=3, loc="upper center", columnspacing=1.2, handlelength=1.2)
    axes[0].set_ylabel("images")
    return figure
