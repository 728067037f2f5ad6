"""Random square crops of photographs, area-averaged to a small square: the data of the photo mixture.

A crop is a function of (photo, seed, crop id) only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from taba_core import rng
from taba_core.models.photos import MIN_SIDE, Photo

MIN_CROP, MAX_CROP = MIN_SIDE, 384  # pixels of a crop's side before averaging
_STRIP_VALUES = 1 << 20  # pixels of the integral image held at a time
_LINES_AT_ONCE = 2048


def random_crops(
    photo: Photo, crop_ids: Sequence[int] | NDArray[np.integer], *, seed: int, size: int = 32
) -> NDArray[np.float32]:
    """Random crops of one photograph, area-averaged: (len(crop_ids), 3, size, size), float32 in [-1, 1].

    The side runs from 64 to 384 pixels (or to the shorter side of the photograph), the position is uniform
    and every other crop on average is mirrored left to right. Half of the sides lie below 1.25 times the
    smallest: close views have the plain areas that few Gaussians can express. Row i depends on
    (photo, seed, crop_ids[i]) only.
    """
    pixels = photo.pixels()
    height, width = pixels.shape[:2]
    u, side = _draws(photo, crop_ids, seed)
    top, left = u[:, 1] * (height - side), u[:, 2] * (width - side)
    lines = side[:, None] * np.arange(size + 1) / size
    crops = box_means(pixels, top[:, None] + lines, left[:, None] + lines)
    mirrored = u[:, 3] < 0.5
    crops[mirrored] = crops[mirrored, :, :, ::-1]
    return (crops / 127.5 - 1.0).astype(np.float32)


def crop_sides(
    photo: Photo, crop_ids: Sequence[int] | NDArray[np.integer], *, seed: int
) -> NDArray[np.float64]:
    """Sides of the crops that `random_crops` makes, in pixels of the photograph before averaging: (len(crop_ids),)."""
    return _draws(photo, crop_ids, seed)[1]


def _draws(
    photo: Photo, crop_ids: Sequence[int] | NDArray[np.integer], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The uniform numbers of crops (side, top, left, mirrored), (n, 4), and the sides that follow from them, (n,)."""
    u = rng.uniform(crop_ids, (4,), seed=seed, stream=f"crops/{photo.name}")
    largest = min(*photo.pixels().shape[:2], MAX_CROP)
    return u, MIN_CROP * (largest / MIN_CROP) ** (u[:, 0] ** 3)


def photos_of_crops(
    count: int, crop_ids: Sequence[int] | NDArray[np.integer], *, seed: int
) -> NDArray[np.int64]:
    """Which of `count` photographs each crop of `real_crops` is taken from, (len(crop_ids),)."""
    return rng.integers(np.asarray(crop_ids, dtype=np.int64), count, seed=seed, stream="real-crops/photo")


def real_crops(
    photos: Sequence[Photo], crop_ids: Sequence[int] | NDArray[np.integer], *, seed: int, size: int = 32
) -> NDArray[np.float32]:
    """Crops of photographs drawn at random, to hold beside samples: (len(crop_ids), 3, size, size) in [-1, 1].

    Row i depends on (photos, seed, crop_ids[i]) only.
    """
    ids = np.asarray(crop_ids, dtype=np.int64)
    chosen = photos_of_crops(len(photos), ids, seed=seed)
    crops = np.empty((len(ids), 3, size, size), dtype=np.float32)
    for index in np.unique(chosen):
        rows = chosen == index
        crops[rows] = random_crops(photos[index], ids[rows], seed=seed, size=size)
    return crops


def box_means(
    pixels: NDArray[np.uint8], ys: NDArray[np.float64], xs: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Means over the boxes between neighbouring grid lines: ys, xs (n, size + 1) -> (n, 3, size, size).

    The integral image interpolated bilinearly is the exact integral of a piecewise constant picture. Its values
    are whole numbers below 2^53, so it is exact in float64 and can be made strip by strip: a picture of any size
    takes the memory of one strip, and gives the bits that the whole integral image would.
    """
    height, width = pixels.shape[:2]
    y0, x0 = np.minimum(ys.astype(np.int64), height - 1), np.minimum(xs.astype(np.int64), width - 1)
    fy, fx = ys - y0, xs - x0
    corners = np.empty((len(ys), 3, ys.shape[1], xs.shape[1]))  # the integral where grid lines cross
    order = np.argsort(y0, axis=None, kind="stable")
    crops, lines = np.unravel_index(order, y0.shape)
    sorted_rows = y0[crops, lines]
    for top, integral in _integral_strips(pixels):
        begin, end = np.searchsorted(sorted_rows, (top, top + integral.shape[1] - 1))
        for start in range(begin, end, _LINES_AT_ONCE):
            part = slice(start, min(start + _LINES_AT_ONCE, end))
            i, k = crops[part], lines[part]
            values = _crossings(integral, sorted_rows[part] - top, fy[i, k], x0[i], fx[i])
            corners[i, :, k] = values.transpose(1, 0, 2)
    out = np.empty((len(ys), 3, ys.shape[1] - 1, xs.shape[1] - 1))
    for crop in range(len(ys)):
        area = np.diff(ys[crop])[:, None] * np.diff(xs[crop])[None, :]
        out[crop] = np.diff(np.diff(corners[crop], axis=1), axis=2) / area
    return out


def _integral_strips(pixels: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Rows top to top + r of the integral image, (3, r + 1, W + 1): the last row of one is the first of the next."""
    height, width = pixels.shape[:2]
    rows = max(1, _STRIP_VALUES // (width + 1))
    above = np.zeros((3, width + 1))
    for top in range(0, height, rows):
        strip = pixels[top : top + rows].transpose(2, 0, 1)
        integral = np.zeros((3, strip.shape[1] + 1, width + 1))
        np.cumsum(np.ascontiguousarray(strip), axis=2, dtype=np.float64, out=integral[:, 1:, 1:])
        integral[:, 0] = above
        for row in range(1, integral.shape[1]):
            integral[:, row] += integral[:, row - 1]
        above = integral[:, -1]
        yield top, integral


def _crossings(
    integral: NDArray[np.float64],
    row: NDArray[np.int64],
    fy: NDArray[np.float64],
    x0: NDArray[np.int64],
    fx: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The integral at the crossings of P horizontal lines with their crops' vertical ones: (3, P, size + 1).

    Down first and then across, as rounding depends on the order.
    """
    width = integral.shape[2]
    values = integral.reshape(3, -1)
    index = row[:, None] * width + x0

    def down(place: NDArray[np.int64]) -> NDArray[np.float64]:
        upper = values[:, place]
        return upper + fy[:, None] * (values[:, place + width] - upper)

    left = down(index)
    return left + fx * (down(index + 1) - left)
