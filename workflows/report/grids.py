"""Pictures of states: image grids, latents as colours, plain masks, difference maps.

Axes: R rows and K columns of the grid, C channels, H rows and W columns of a picture.
A *tile* is one picture as RGB in [0, 1]; a row of the grid is a (K, H, W, 3) array of tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure

from workflows.report.style import COLORS, DIVERGING, SEQUENTIAL, TEXT_WIDTH, new_figure, styled

Array = npt.NDArray[Any]
MISSING = np.array([0.88, 0.88, 0.90])  # an unwritten value (NaN) is a flat light grey, not black
GAP = 0.06  # white between tiles, as a share of a tile's width


def _channels_last(pictures: Array) -> Array:
    """Pictures with one or three channels as the last axis; other channel counts as `three_channels` has it."""
    pictures = np.asarray(pictures)
    if pictures.ndim == 4 and pictures.shape[-1] == 3:
        return pictures
    if pictures.ndim == 4 and pictures.shape[1] > 0:
        return np.moveaxis(three_channels(pictures), 1, -1)
    raise ValueError(f"pictures have shape {pictures.shape}; expected (K, C, H, W) or (K, H, W, 3).")


def _rgb(values: Array) -> Array:
    tiles = np.broadcast_to(values, (*values.shape[:-1], 3)).astype(np.float64)
    missing = ~np.isfinite(tiles).all(-1)
    tiles = np.clip(np.nan_to_num(tiles), 0, 1)
    tiles[missing] = MISSING
    return tiles


def image_tiles(images: Array) -> Array:
    """Images to tiles: uint8 as it is, floats from [-1, 1]; (K, C, H, W) or (K, H, W, 3). One channel is grey."""
    pictures = _channels_last(images)
    if pictures.dtype == np.uint8:
        return _rgb(pictures / 255.0)
    return _rgb((pictures.astype(np.float64) + 1) / 2)


def symmetric_limit(states: Array) -> float:
    """The 99.5th percentile of |x|: a colour scale that a few outliers do not flatten."""
    finite = np.abs(states[np.isfinite(states)])
    return float(np.percentile(finite, 99.5)) or 1.0 if finite.size else 1.0


def latent_tiles(states: Array, limit: float | None = None) -> tuple[Array, float]:
    """Noise-like states to tiles: [-limit, limit] to [0, 1], one scale for the row; returns it too.

    Three channels are shown as RGB, one channel in a diverging map. (K, C, H, W).
    """
    pictures = _channels_last(states).astype(np.float64)
    limit = limit or symmetric_limit(pictures)
    unit = (pictures / limit + 1) / 2
    if unit.shape[-1] == 1:
        unit = np.where(np.isfinite(unit), DIVERGING(np.nan_to_num(unit[..., 0]))[..., :3], np.nan)
    return _rgb(unit), limit


def principal_channels(states: Array) -> Array:
    """States of any channel count to three: principal components over all pixels (paper, Fig. 2c).

    (K, C, H, W) to (K, 3, H, W). The sign of a component is fixed by its largest weight, so equal input
    gives equal pictures. Two channels have two components, and the third is 0. One channel is its own component:
    (K, 1, H, W), its mean taken off.
    """
    pixels = np.moveaxis(np.asarray(states, np.float64), 1, -1)
    flat = pixels.reshape(-1, pixels.shape[-1])
    if flat.shape[1] == 1:
        return np.moveaxis(pixels - flat.mean(), -1, 1)
    _, vectors = np.linalg.eigh(np.cov(flat, rowvar=False))
    axes = vectors[:, ::-1][:, :3]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    return three_channels(np.moveaxis((pixels - flat.mean(0)) @ axes, -1, 1))


def three_channels(states: Array) -> Array:
    """States that can be shown: as they are with one channel (grey) or three, else the first three (latent models).

    Two channels are red and green, blue being 0: the middle of the range. The same channels in every row, so that
    rows on one colour scale compare. (K, C, H, W).
    """
    if states.shape[1] == 2:
        middle = 128 if states.dtype == np.uint8 else 0
        return np.concatenate([states, np.full_like(states[:, :1], middle)], axis=1)
    return states if states.shape[1] == 1 else states[:, :3]


def mask_tiles(images: Array, masks: Array) -> Array:
    """Images with their plain pixels tinted and the rest in pale grey; masks are bool (K, H, W).

    A mask of fewer positions (latent models) is enlarged to the image.
    """
    grey = image_tiles(images).mean(-1, keepdims=True)
    tiles = np.repeat(0.35 + 0.6 * grey, 3, axis=-1)
    plain = np.asarray(masks, bool)
    for axis in (1, 2):
        plain = plain.repeat(tiles.shape[axis] // plain.shape[axis], axis=axis)
    tint = np.array(to_rgb(COLORS["Plain"]))
    tiles[plain] = 0.25 * tiles[plain] + 0.75 * tint
    return tiles


def heat_tiles(values: Array, limit: float) -> Array:
    """Non-negative fields (K, H, W) to tiles in the sequential map, 0 to `limit`."""
    scaled = np.asarray(values, np.float64) / limit
    return _rgb(np.where(np.isfinite(scaled)[..., None], SEQUENTIAL(np.nan_to_num(scaled))[..., :3], np.nan))


def _mosaic(tiles: Array) -> tuple[Array, Array]:
    count, height, width, _ = tiles.shape
    gap = max(1, round(GAP * width))
    canvas = np.ones((height, count * width + (count - 1) * gap, 3))
    starts = np.arange(count) * (width + gap)
    for start, tile in zip(starts, tiles, strict=True):
        canvas[:, start : start + width] = tile
    return canvas, (starts + (width - 1) / 2)


@styled
def tile_grid(
    rows: Sequence[Array],
    row_labels: Sequence[str] = (),
    col_labels: Sequence[str] = (),
    title: str = "",
    width: float = TEXT_WIDTH,
) -> Figure:
    """Rows of tiles, each (K, H, W, 3) in [0, 1]; rows may differ in H and W, not in K.

    `row_labels` stand left of the rows, `col_labels` above the columns.
    """
    counts = {len(row) for row in rows}
    if len(counts) != 1:
        raise ValueError(f"rows of a grid need the same number of tiles, got {[len(row) for row in rows]}.")
    for what, labels, count in (("row", row_labels, len(rows)), ("column", col_labels, len(rows[0]))):
        if len(labels) not in (0, count):
            raise ValueError(f"{len(labels)} {what} labels for {count} {what}s of a grid; give all or none.")
    label_width = 0.075 * max((len(line) for label in row_labels for line in label.split("\n")), default=0)
    mosaics = [_mosaic(np.asarray(row)) for row in rows]
    tile_width = min(1.15, (width - label_width) / counts.pop())
    span = tile_width * len(rows[0])
    heights = [span * canvas.shape[0] / canvas.shape[1] for canvas, _ in mosaics]
    figure = new_figure(span + label_width, sum(heights) + 0.07 * len(rows) + (0.25 if col_labels else 0))
    figure.set_layout_engine("constrained", h_pad=0.02, w_pad=0.02, hspace=0, wspace=0)
    axes = figure.subplots(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    for index, (axis, (canvas, centres)) in enumerate(zip(axes, mosaics, strict=True)):
        axis.imshow(canvas, interpolation="none", aspect="equal")  # a PDF holds the pixels themselves
        axis.grid(False)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0, pad=3)
        axis.set_yticks([(canvas.shape[0] - 1) / 2], [row_labels[index] if index < len(row_labels) else ""])
        top = index == 0 and len(col_labels) > 0
        axis.set_xticks(centres if top else [], list(col_labels) if top else [])
        axis.xaxis.tick_top()
    if title:
        figure.suptitle(title, fontsize=9, fontweight="bold")
    return figure


def image_grid(
    images: Sequence[Array],
    row_labels: Sequence[str] = (),
    col_labels: Sequence[str] = (),
    title: str = "",
    width: float = TEXT_WIDTH,
) -> Figure:
    """Images in [-1, 1] or uint8 RGB, one (K, C, H, W) array per row."""
    return tile_grid([image_tiles(row) for row in images], row_labels, col_labels, title, width)


def latent_grid(
    states: Sequence[Array],
    row_labels: Sequence[str] = (),
    col_labels: Sequence[str] = (),
    title: str = "",
    common_scale: bool = False,
) -> Figure:
    """Noise-like states, one (K, C, H, W) array per row, each row on its own symmetric scale.

    The scale stands under the row's label. `common_scale` uses the first row's for all, so that a smaller
    spread shows as paler colours.
    """
    tiles, labels = [], []
    limit: float | None = None
    for index, row in enumerate(states):
        row_tiles, used = latent_tiles(row, limit)
        limit = used if common_scale else None
        tiles.append(row_tiles)
        label = row_labels[index] if index < len(row_labels) else ""
        labels.append(f"{label}\n±{used:.2g}".strip())
    return tile_grid(tiles, labels, col_labels, title)


def mask_overlay_grid(
    images: Array, masks: Array, col_labels: Sequence[str] | None = None, title: str = ""
) -> Figure:
    """Images (K, C, H, W) above their plain regions (K, H, W); columns default to the plain share."""
    masks = np.asarray(masks, bool)
    if col_labels is None:
        col_labels = [f"{share:.0%} plain" for share in masks.mean((1, 2))]
    rows = [image_tiles(images), mask_tiles(images, masks)]
    return tile_grid(rows, ("image\n$x^0$", "plain\nregion"), col_labels, title)


@styled
def difference_maps(
    differences: Sequence[Array],
    row_labels: Sequence[str] = (),
    col_labels: Sequence[str] = (),
    title: str = "",
    colorbar_label: str = r"$|x^T - \hat{x}^T|$, channel mean",
    limit: float | None = None,
    top: Sequence[Array] = (),
) -> Figure:
    """Absolute differences, one (K, H, W) array per row, all on one scale with a colour bar.

    The scale ends at the 99.5th percentile of all rows unless `limit` is given. `top` are rows of tiles above the
    maps (the images they belong to); their labels come first.
    """
    values = [np.abs(np.asarray(row, np.float64)) for row in differences]
    limit = limit or symmetric_limit(np.concatenate([row.ravel() for row in values]))
    figure = tile_grid(
        [*top, *(heat_tiles(row, limit) for row in values)], row_labels, col_labels, title, TEXT_WIDTH - 0.8
    )
    width, height = figure.get_size_inches()
    figure.set_size_inches(width + 0.8, height)
    scale = ScalarMappable(Normalize(0, limit), SEQUENTIAL)
    bar = figure.colorbar(scale, ax=figure.axes, fraction=0.04, pad=0.02, aspect=18)
    bar.set_label(colorbar_label)
    bar.outline.set_visible(False)
    return figure
