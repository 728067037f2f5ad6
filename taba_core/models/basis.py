"""The fixed orthonormal basis of the embedded models: opponent colours and the 2-D cosine transform.

Photographs are nearly uncorrelated in it, so a diagonal remainder is a good remainder. Coefficients are
ordered (colour, vertical frequency, horizontal frequency), flattened to d = 3 * size * size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Rows: luminance, red against green, yellow against blue.
OPPONENT = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [1.0, 1.0, -2.0]]) / np.sqrt([[3.0], [2.0], [6.0]])


def cosine_matrix(size: int) -> NDArray[np.float64]:
    """Orthonormal DCT-II, (size, size): row k has frequency k / (2 size) cycles a pixel."""
    k, n = np.arange(size)[:, None], np.arange(size)[None, :]
    matrix = np.cos(np.pi * k * (2 * n + 1) / (2 * size)) * np.sqrt(2.0 / size)
    matrix[0] /= np.sqrt(2.0)
    return matrix


def analyse(images: NDArray[np.floating]) -> NDArray[np.float64]:
    """Images (n, 3, S, S) to coefficients (n, 3 S S), float64."""
    cosines = cosine_matrix(images.shape[-1])
    coefficients = cosines @ images.astype(np.float64) @ cosines.T
    return np.einsum("oc,nchw->nohw", OPPONENT, coefficients).reshape(len(images), -1)


def low_frequencies(size: int) -> NDArray[np.int64]:
    """Indices of the low-frequency coefficients that may correlate: half the band of luminance, a quarter of
    the band of each colour difference (photographs keep little colour detail). (3/8 size^2,), ascending."""
    index = np.arange(3 * size * size).reshape(3, size, size)
    half, quarter = size // 2, size // 4
    parts = [index[0, :half, :half], index[1, :quarter, :quarter], index[2, :quarter, :quarter]]
    return np.concatenate([part.ravel() for part in parts])
