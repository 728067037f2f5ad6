"""Histograms of the angles of triangles over whole degrees, and the most probable triangle they hold (Eq. 10).

Bin k, 0 to 180, stands for the angle of k degrees. Axes: ... replicates, 3 vertices, 181 bins.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from taba_core.stats.base import Array

Bins = Literal["rounded", "reference"]
NUM_BINS = 181
SMOOTHING = 3.0  # degrees; standard deviation of the kernel under which peaks are counted


def bin_of(angles: Array, bins: Bins = "rounded") -> NDArray[np.int64]:
    """Bin of each angle in degrees; -1 for no angle (NaN), and in reference bins for one outside [1, 179].

    rounded: the nearest whole degree (halves upwards). reference: the floor, 179 itself counting as 178.
    """
    defined = np.isfinite(angles)
    known = np.where(defined, angles, 0.0)
    if bins == "rounded":
        return np.where(defined, np.floor(known + 0.5), -1).astype(np.int64)
    inside = defined & (known >= 1) & (known <= 179)
    return np.where(inside, np.minimum(np.floor(known), 178), -1).astype(np.int64)


def most_probable_angles(histograms: Array) -> NDArray[np.float64]:
    """Angles (a, b, c) with a + b + c = 180 whose product of counts is largest    (paper, Eq. 10).

    Only bins that hold something can win, so the search is one product over the bins between the first and the
    last used one. Exact for whole counts up to n = 2 10^5 (n^3 < 2^53). Equal products: the smallest angle at
    the latent, then at the image.

    Args:
      histograms: (3, 181) counts or weights at the image, the noise, the latent.

    Returns:
      (3,) degrees; NaN if no three bins with counts add to 180.
    """
    image, noise, latent = np.asarray(histograms, dtype=np.float64)
    used_image, used_latent = image.nonzero()[0], latent.nonzero()[0]
    if not (used_image.size and used_latent.size):
        return np.full(3, np.nan)
    s, c = slice(used_image[0], used_image[-1] + 1), slice(used_latent[0], used_latent[-1] + 1)
    # opposite[k] = count of the noise's angle 180 - k, 0 where that is negative; row c of the view starts at bin c.
    opposite = np.zeros(2 * NUM_BINS)
    opposite[:NUM_BINS] = noise[::-1]
    size, first, step = (c.stop - c.start, s.stop - s.start), c.start + s.start, opposite.itemsize
    products = np.ndarray(size, np.float64, opposite, first * step, (step, step)) * image[s]
    products *= latent[c, None]
    best = int(products.argmax())
    at_latent, at_image = divmod(best, size[1])
    if products[at_latent, at_image] <= 0:
        return np.full(3, np.nan)
    at_latent, at_image = at_latent + c.start, at_image + s.start
    return np.array([at_image, 180 - at_image - at_latent, at_latent], dtype=np.float64)


def most_probable_angles_direct(histograms: Array) -> NDArray[np.float64]:
    """The same by its definition, one pair of bins after the other: the slow reference."""
    image, noise, latent = np.asarray(histograms, dtype=np.float64)
    best, found = 0.0, np.full(3, np.nan)
    for c in range(NUM_BINS):
        for a in range(NUM_BINS):
            b = 180 - a - c
            if b < 0:
                continue
            product = image[a] * noise[b] * latent[c]
            if product > best:
                best, found = product, np.array([a, b, c], dtype=np.float64)
    return found


def joint_mode(first: Array, second: Array, weights: Array) -> NDArray[np.float64]:
    """Most frequent pair of bins under each weighting; equal weights: the smallest first, then second angle.

    Args:
      first, second: (n,) bins, -1 for no angle.
      weights: (B, n).

    Returns:
      (B, 2) degrees; NaN where no pair has weight.
    """
    known = (first >= 0) & (second >= 0)
    if not known.any():
        return np.full((len(weights), 2), np.nan)
    cells, cell_of = np.unique(first[known] * NUM_BINS + second[known], return_inverse=True)
    order = np.argsort(cell_of, kind="stable")
    starts = np.searchsorted(cell_of[order], np.arange(len(cells)))
    counts = np.add.reduceat(np.asarray(weights, dtype=np.float64)[:, known][:, order], starts, axis=1)
    best = counts.argmax(axis=1)
    pairs = np.stack(np.divmod(cells[best], NUM_BINS), axis=1).astype(np.float64)
    return np.where((counts.max(axis=1) > 0)[:, None], pairs, np.nan)


def with_third_angle(pairs: Array) -> NDArray[np.float64]:
    """(..., 2) angles at image and noise to (..., 3) with the one at the latent."""
    return np.concatenate([pairs, 180.0 - pairs.sum(axis=-1, keepdims=True)], axis=-1)


def smoothed(histograms: Array) -> NDArray[np.float64]:
    """Histograms under a Gaussian kernel of SMOOTHING degrees, (..., 181)."""
    apart = np.subtract.outer(np.arange(NUM_BINS), np.arange(NUM_BINS))
    kernel = np.exp(-np.square(apart / SMOOTHING) / 2) / (SMOOTHING * np.sqrt(2 * np.pi))
    return np.asarray(np.asarray(histograms, dtype=np.float64) @ kernel)


def half_maximum(histograms: Array) -> tuple[Any, Any]:
    """Full width at half maximum of the smoothed histogram in degrees, and its number of peaks.

    A peak is a stretch on which the smoothed counts reach half their maximum; the width is that of the highest
    one, between linearly interpolated crossings. The kernel widens it: sqrt(w^2 + 7.1^2) for a Gaussian.

    Args:
      histograms: (..., 181).

    Returns:
      width, peaks, each (...,); NaN for an empty histogram.
    """
    height = smoothed(histograms)
    peak = height.argmax(axis=-1)[..., None]
    half = height.max(axis=-1, keepdims=True) / 2
    empty = half[..., 0] <= 0
    above = (height >= half) & (half > 0)
    k = np.arange(NUM_BINS)
    left = np.where(~above & (k < peak), k, -1).max(axis=-1, keepdims=True)
    right = np.where(~above & (k > peak), k, NUM_BINS).min(axis=-1, keepdims=True)
    width = _crossing(height, half, right - 1, right) - _crossing(height, half, left + 1, left)
    rises = above & ~np.concatenate([np.zeros_like(above[..., :1]), above[..., :-1]], axis=-1)
    return np.where(empty, np.nan, width[..., 0]), np.where(empty, np.nan, rises.sum(axis=-1))


def _crossing(height: Array, half: Array, inside: Array, outside: Array) -> Array:
    """Where the line from bin `inside` (above half) to bin `outside` (below, or beyond the ends) meets half."""
    exists = (outside >= 0) & (outside < NUM_BINS)
    inner = np.take_along_axis(height, np.clip(inside, 0, NUM_BINS - 1), axis=-1)
    outer = np.take_along_axis(height, np.clip(outside, 0, NUM_BINS - 1), axis=-1)
    drop = np.where(exists & (inner > outer), inner - outer, 1.0)
    return np.where(exists, inside + (outside - inside) * (inner - half) / drop, inside)
