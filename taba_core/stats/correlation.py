"""How correlated are the entries of noise, latents and images? (Tables 2, 4, 7, 8)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from taba_core.errors import UsageError
from taba_core.stats.base import (
    COUNT,
    Array,
    Block,
    RowStatistic,
    State,
    as_float64,
    over,
    ratio,
)
from taba_core.stats.comoments import (
    CoMomentStatistic,
    OthersMerged,
    Room,
    add_outer_square,
    packed_positions,
)
from taba_core.stats.inputs import Input, state

_Patch = tuple[Array, Array]  # the top_k largest |r| of a patch, descending, and its mean r^2
LAGS = ((0, 1), (1, 0), (1, 1))


@dataclass(frozen=True)
class PatchCorrelation(CoMomentStatistic):
    """Largest absolute Pearson correlations of the positions of a patch, over samples (Tables 2, 4, 7, 8).

    The state is cut into P non-overlapping patches over all channels, p = C patch_size^2 positions each
    (patch_size None: one patch, the whole object). In every patch r_ab over the n samples for all a < b; the
    top_k largest |r_ab| are kept. Streaming co-moments: P p^2 float64 numbers, whatever n is (and up to 512
    samples not yet multiplied out). Means and sums are float64, the products of up to 512 deviations from a
    mean float32, which moves an r by about 1e-7. The selection comes after the merge, because the top k of
    parts are not the top k of the whole.

    A position that is constant over the samples (a saturated pixel) has no correlation: its pairs count as
    r = 0 among the top k, and are left out of the mean of r^2.

    Values:
      mean_top: mean over the P top_k numbers, the value of the tables.
      spread: their sample standard deviation, the tables' "+-". Not a standard error.
      excess_r2: mean r^2 - 1/(n-1) over patches; 0 in expectation for white noise at every n.
      values: (P, top_k), patches row-major, descending.

    All are NaN for n < 2. On white noise the jackknife's standard error of mean_top is too large, about
    2.5-fold (extremes vary less than the correlations they are picked from), and of excess_r2 about
    1.4-fold: conservative.
    """

    product: ClassVar[DTypeLike] = np.float32
    variable: str
    patch_size: int | None = 8
    top_k: int = 20

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The one variable, (n, C, H, W)."""
        return (state(self.variable),)

    def features(self, block: Block) -> NDArray[np.floating]:
        """The P patches of every state, row-major, (P, n, p), in the precision of the data, at least float32."""
        x = np.asarray(block[self.variable])
        self._check_patches(x)
        x = np.ascontiguousarray(x, dtype=np.result_type(x.dtype, np.float32))
        n, channels, height, width = x.shape
        size_y, size_x = self._size(height, width)
        # A row of a patch is one entry here: numpy copies entry by entry, and these are larger.
        rows = x.view(np.dtype((np.void, size_x * x.itemsize)))
        cut = rows.reshape(n, channels, height // size_y, size_y, width // size_x).transpose(2, 4, 0, 1, 3)
        return np.ascontiguousarray(cut).view(x.dtype).reshape(-1, n, channels * size_y * size_x)

    def summarise(self, state: State) -> dict[str, Array]:
        """Select the top correlations of every patch."""
        patches, features = self.shape(state)
        select, room = _TopPairs(features, self.top_k), Room()
        found = [select.of_matrix(self.part(state, patch, room=room)[2]) for patch in range(patches)]
        return self._values(int(state[COUNT]), found)

    def summaries_without(self, groups: Sequence[State]) -> list[dict[str, Array]]:
        """Patch after patch: a core's cache holds the co-moments of one patch of all groups, and each is made once."""
        patches, features = self.shape(groups[0])
        if patches == 1:  # the whole object: too large to have it once for each group
            return super().summaries_without(groups)
        select, others = _TopPairs(features, self.top_k), OthersMerged(self, groups)
        found: list[list[_Patch]] = [[] for _ in groups]
        for patch in range(patches):
            for of, (_, _, packed) in zip(found, others.of(patch), strict=True):
                of.append(select.of_packed(packed))
        counts = [int(state[COUNT]) for state in groups]
        return [self._values(sum(counts) - n, of) for n, of in zip(counts, found, strict=True)]

    def _values(self, n: int, patches: Sequence[_Patch]) -> dict[str, Array]:
        values = np.stack([top for top, _ in patches])
        if n < 2:
            nan = np.asarray(np.nan)
            return {"mean_top": nan, "spread": nan, "excess_r2": nan, "values": np.full(values.shape, np.nan)}
        spread = values.std(ddof=1) if values.size > 1 else np.nan
        excess = np.stack([mean_r2 for _, mean_r2 in patches]).mean() - 1 / (n - 1)
        return {
            "mean_top": np.asarray(values.mean()),
            "spread": np.asarray(spread),
            "excess_r2": np.asarray(excess),
            "values": values,
        }

    def num_features(self, num_channels: int) -> int:
        """Positions of a patch, p, for the floor at the same n (`floor.correlation_floor`)."""
        if self.patch_size is None:
            raise UsageError(
                "patch_size=None is the whole object: its positions are C x H x W, not a patch's."
            )
        return num_channels * self.patch_size**2

    def _size(self, height: int, width: int) -> tuple[int, int]:
        return (height, width) if self.patch_size is None else (self.patch_size, self.patch_size)

    def _check_patches(self, x: Array) -> None:
        _, channels, height, width = x.shape
        size_y, size_x = self._size(height, width)
        if height % size_y or width % size_x:
            raise UsageError(
                f"patch_size={self.patch_size} does not divide {self.variable} of {height}x{width}; "
                f"use a divisor of both."
            )
        features = channels * size_y * size_x
        pairs = features * (features - 1) // 2
        if not 1 <= self.top_k <= pairs:
            raise UsageError(
                f"top_k={self.top_k}: a patch of {features} positions has {pairs} pairs; use 1 to {pairs}."
            )


class _TopPairs:
    """What the co-moments of a patch say of its pairs a < b; all patches are computed in the same arrays.

    Each answer is the largest |r|, and the mean r^2. Where a position is constant r is 0, and no part of the mean.
    """

    def __init__(self, features: int, top_k: int) -> None:
        self._top_k = top_k
        self._pairs = np.flatnonzero(np.triu(np.ones((features, features), dtype=bool), k=1))
        self._diagonal = np.flatnonzero(packed_positions(features) % (features + 1) == 0)
        self._matrix = np.empty((features, features))
        self._r = np.empty(len(self._pairs))
        self._packed_r = np.empty(len(self._pairs) + features)
        self._before = np.empty(0, dtype=np.intp)

    def of_matrix(self, moment: Array) -> _Patch:
        """From co-moments (p, p)."""
        varies, inverse = _inverse_scale(np.diagonal(moment))
        matrix, r = self._matrix, self._r
        np.multiply(moment, inverse[:, None], out=matrix)
        matrix *= inverse
        matrix.ravel().take(self._pairs, out=r, mode="clip")  # a mode that writes into `out` without a copy
        top = self._largest(np.abs(r, out=r))
        return top, ratio(np.square(r, out=r).sum(), _num_pairs(varies))

    def of_packed(self, packed: Array) -> _Patch:
        """From a triangle of them, packed as `OthersMerged` does; the same but for the last bits."""
        varies, inverse = _inverse_scale(packed[self._diagonal])
        r = self._packed_r
        r.fill(0)
        add_outer_square(1.0, inverse, r)
        r *= packed
        r[self._diagonal] = 0
        np.abs(r, out=r)
        return self._largest(r), ratio(np.asarray(r @ r), _num_pairs(varies))

    def _largest(self, r: Array) -> NDArray[np.float64]:
        """The k largest entries, descending.

        Entries below all k that were the largest in the call before are left out of the search: k entries are as large.
        """
        near = np.flatnonzero(r >= r[self._before].min(initial=np.inf))
        if len(near) < self._top_k:  # there was no call before, or an entry is not finite
            near = np.arange(len(r))
        self._before = near[np.argpartition(r[near], len(near) - self._top_k)[len(near) - self._top_k :]]
        return np.sort(r[self._before])[::-1]


def _inverse_scale(variation: Array) -> tuple[Array, Array]:
    """Which positions vary, and one over the square root of their sum of squares; 0 for those that do not."""
    scale = np.sqrt(variation)
    varies = scale > 0
    return varies, np.where(varies, 1 / np.where(varies, scale, 1.0), 0.0)


def _num_pairs(varies: Array) -> Array:
    count = int(np.count_nonzero(varies))
    return np.asarray(count * (count - 1) // 2)


@dataclass(frozen=True)
class LagCorrelation(RowStatistic):
    """Signed autocorrelation of neighbouring pixels, per image and channel, averaged; needs no large n.

    r(dy, dx) = mean over pairs of (x[y, x] - m)(x[y+dy, x+dx] - m) / mean of (x - m)^2, plus 1/(HW - 1),
    which makes it 0 in expectation for white noise of every size (subtracting the image's own mean m costs
    exactly that). Channels without variation are left out. Signed, because over-correction makes it negative.

    Values:
      lags: (3,) at the lags (0,1), (1,0), (1,1); value: their mean.
    """

    variable: str

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The one variable, (n, C, H, W)."""
        return (state(self.variable),)

    def rows(self, block: Block) -> dict[str, Array]:
        """Per image the sum over channels of r at each lag, and how many channels it has."""
        x = as_float64(block[self.variable])
        height, width = x.shape[2:]
        x = x - x.mean(axis=(2, 3), keepdims=True)
        variance = np.square(x).mean(axis=(2, 3))
        varies = variance > 0
        total = np.empty((len(x), len(LAGS)))
        for index, (dy, dx) in enumerate(LAGS):
            product = (x[:, :, : height - dy, : width - dx] * x[:, :, dy:, dx:]).mean(axis=(2, 3))
            r = product / np.where(varies, variance, 1.0) + 1 / (height * width - 1)
            total[:, index] = np.where(varies, r, 0.0).sum(axis=1)
        return {"r": total, "channels": varies.sum(axis=1)}

    def summarise_sums(self, sums: Mapping[str, Array], count: Array) -> dict[str, Array]:
        """Mean over the channels of all images."""
        lags = ratio(sums["r"], over(sums["channels"], sums["r"]))
        return {"lags": lags, "value": lags.mean(axis=-1)}
