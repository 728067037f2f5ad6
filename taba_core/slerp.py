"""Spherical interpolation between two noises (paper, section 4.1)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taba_core.errors import UsageError

PARALLEL = 0.9995


def slerp(u: NDArray[Any], v: NDArray[Any], weight: float, *, by_row: bool = False) -> NDArray[np.float64]:
    """Interpolate on the sphere between u (weight 0) and v (weight 1), sample by sample.

    sin((1 - w) theta) / sin(theta) u + sin(w theta) / sin(theta) v, theta the angle between the whole flattened
    states; (1 - w) u + w v where |cos theta| > 0.9995 or a state is zero (no angle).

    Args:
      u, v: (n, ...), one shape.
      weight: in [0, 1].
      by_row: the reference's defect: one angle for every row along the last axis, so that the rows of an image
        turn by different angles and the norm of the state is not kept.

    Raises:
      UsageError: shapes differ, or a weight outside [0, 1].

    >>> slerp(np.array([[2.0, 0.0]]), np.array([[0.0, 2.0]]), 0.5).round(3).tolist()
    [[1.414, 1.414]]
    """
    if np.shape(u) != np.shape(v):
        raise UsageError(
            f"slerp between shapes {np.shape(u)} and {np.shape(v)}; both ends need the same shape."
        )
    if not 0 <= weight <= 1:
        raise UsageError(f"weight={weight} is outside the segment; use a number from 0 to 1.")
    # contiguous, so that sums do not depend on the memory layout a reader returned
    a, b = np.ascontiguousarray(u, dtype=np.float64), np.ascontiguousarray(v, dtype=np.float64)
    axes = (-1,) if by_row else tuple(range(1, a.ndim))
    lengths = np.sqrt(np.square(a).sum(axis=axes, keepdims=True) * np.square(b).sum(axis=axes, keepdims=True))
    inner = (a * b).sum(axis=axes, keepdims=True)
    cosine = np.divide(inner, lengths, out=np.ones_like(inner), where=lengths > 0)
    turns = np.abs(cosine) <= PARALLEL
    theta = np.arccos(np.where(turns, cosine, 0.0))
    along_u = np.where(turns, np.sin((1 - weight) * theta) / np.sin(theta), 1 - weight)
    along_v = np.where(turns, np.sin(weight * theta) / np.sin(theta), weight)
    return np.asarray(along_u * a + along_v * b)
