"""Means and co-moments of features over samples: what correlations, Fréchet distances and alignments share."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from taba_core.stats.base import COUNT, Array, Block, MomentStatistic, State, left_half, merge_means

SAMPLES_PER_PRODUCT = 512
ROWS = "rows"


@dataclass(frozen=True)
class CoMomentStatistic(MomentStatistic):
    """Mean and co-moments M = sum (f - mean)(f - mean)^T of G groups of p features, over samples.

    Few samples are kept as they are (`rows`), until they fill a matrix product; then the state is G (p + p^2)
    float64 numbers, whatever n is. Which form a state has follows from its place in the merge tree alone, so
    the bits do not depend on the split.
    """

    product: ClassVar[DTypeLike] = np.float64
    """Type in which the deviations of up to `rows_kept` samples from their mean are multiplied."""
    whole_block: ClassVar[int] = SAMPLES_PER_PRODUCT

    @abc.abstractmethod
    def features(self, block: Block) -> NDArray[np.floating]:
        """Features of the samples of a block, (n, ...), in any layout that `groups` cuts."""

    @abc.abstractmethod
    def groups(self, rows: Array) -> list[Array]:
        """Views of features (n, ...), one a group; each (n, ...) with p entries a sample."""

    def rows_kept(self, num_features: int) -> int:
        """Fewer samples than this are kept as rows."""
        return SAMPLES_PER_PRODUCT

    def partial(self, block: Block) -> State:
        """Features of a block."""
        rows = self.features(block)
        return self.settled({COUNT: np.asarray(len(rows), dtype=np.int64), ROWS: rows})

    def combine(self, a: State, b: State) -> State:
        """Chan's rule per group: M = M_a + M_b + delta delta^T n_a n_b / n."""
        if ROWS in a and ROWS in b:
            return self.settled({ROWS: np.concatenate([a[ROWS], b[ROWS]])})
        a, b = {**a, **self.moments(a)}, {**b, **self.moments(b)}
        mean, delta, weight = merge_means(a, b, "mean")
        comoment, step = np.empty_like(a["comoment"]), np.empty(a["comoment"].shape[1:])
        for group, shift in enumerate(delta):  # one at a time: a core's cache holds it
            np.add(a["comoment"][group], b["comoment"][group], out=comoment[group])
            np.multiply(shift[:, None], weight * shift, out=step)
            comoment[group] += step
        return {"mean": mean, "comoment": comoment}

    def merge_tree(self, states: Sequence[State]) -> State:
        """The same bits as merging whole states, group after group: what is half merged never leaves the cache."""
        # States that are computed when they are looked at are not all looked at together.
        if len(states) < 3 or not isinstance(states, list | tuple) or any(ROWS in state for state in states):
            return super().merge_tree(states)
        counts = [int(state[COUNT]) for state in states]
        mean, comoment = np.empty_like(states[0]["mean"]), np.empty_like(states[0]["comoment"])
        for group in range(len(mean)):
            parts = [
                (n, state["mean"][group], state["comoment"][group])
                for n, state in zip(counts, states, strict=True)
            ]
            _, mean[group], comoment[group] = _merge_parts(parts)
        return {COUNT: np.asarray(sum(counts), dtype=np.int64), "mean": mean, "comoment": comoment}

    def settled(self, state: State) -> State:
        """The state itself, or its moments if it has rows enough."""
        rows = state[ROWS]
        if len(rows) < self.rows_kept(math.prod(self.groups(rows)[0].shape[1:])):
            return state
        return {**{k: v for k, v in state.items() if k != ROWS}, **self.moments(state)}

    def moments(self, state: State) -> State:
        """Mean (G, p) and co-moments (G, p, p) of a state in either form, float64."""
        if ROWS not in state:
            return {"mean": state["mean"], "comoment": state["comoment"]}
        rows, groups = state[ROWS], self.groups(state[ROWS])
        n, features = len(rows), math.prod(groups[0].shape[1:])
        mean, comoment = np.empty((len(groups), features)), np.empty((len(groups), features, features))
        # Rows of the product's own type are subtracted in it: rounding the mean shifts all deviations alike.
        kind = np.result_type(rows.dtype, self.product)
        deviations, product = np.empty((n, features), kind), np.empty((features, features), self.product)
        for group, x in enumerate(groups):  # one at a time, in the same buffers: they stay in a core's cache
            deviations.reshape(x.shape)[...] = x
            mean[group] = deviations.mean(axis=0, dtype=np.float64)
            deviations -= mean[group].astype(kind)
            factor = deviations.astype(self.product, copy=False)
            comoment[group] = np.matmul(factor.T, factor, out=product)
        return {"mean": mean, "comoment": comoment}

    def covariance(self, state: State) -> Array:
        """Sample covariances M / (n - 1), (G, p, p); NaN for n < 2."""
        n = int(state[COUNT])
        return np.asarray(self.moments(state)["comoment"] / (n - 1 if n > 1 else np.nan))


def _merge_parts(parts: Sequence[tuple[int, Array, Array]]) -> tuple[int, Array, Array]:
    """Count, mean (p,) and co-moments (p, p) of several parts of one group, over the fixed tree."""
    if len(parts) == 1:
        return parts[0]
    half = left_half(len(parts))
    (n_a, mean_a, a), (n_b, mean_b, b) = _merge_parts(parts[:half]), _merge_parts(parts[half:])
    n, delta = float(n_a) + float(n_b), mean_b - mean_a
    comoment = a + b
    comoment += delta[:, None] * (float(n_a) * float(n_b) / n * delta)
    return n_a + n_b, mean_a + delta * (float(n_b) / n), comoment
