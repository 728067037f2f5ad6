"""Precision, recall, density and coverage of generated images by nearest neighbours of features, in two passes.

Around every sample of a set lies a ball that reaches its k-th nearest other sample of the set. The first pass finds the
radii, the second which samples of the other set lie in which balls. Both go over pairs of blocks of samples; a task has
two blocks in memory, whatever n is, and what it finds of a block (the smallest numbers, counts, an OR) depends on no
order.

Axes: n judged samples, m samples with balls, d features, R sets of radii.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taba_core.errors import UsageError
from taba_core.stats.base import SAMPLE, Array
from taba_core.stats.estimate import Estimate
from taba_core.stats.feature_blocks import FeatureBlocks, each
from taba_core.stats.reduce import reduce_blocks
from taba_core.stats.resample import NUM_REPLICATES, estimates
from taba_core.stats.values import ValueMean

PRECISION_K, DENSITY_K = 3, 5  # nearest neighbours, as the papers of these measures take them


def squared_distances(p: Array, q: Array) -> NDArray[np.float64]:
    """||p - q||^2 of every row of p to every row of q, (m, n): norms less twice the inner product.

    Digits cancel where rows are long beside their distances, so the callers take the mean of a set off both first.
    """
    squares = np.square(p).sum(axis=1)[:, None] + np.square(q).sum(axis=1) - 2 * (p @ q.T)
    return np.asarray(np.maximum(squares, 0.0))


def nearest_squares(
    features: Any, k: int, *, scheduler: Any = "threads", workers: int | None = None
) -> NDArray[np.float64]:
    """Squared distances of every sample of a set to its k nearest others, (m, k), ascending.

    Raises:
      UsageError: k < 1, not more than k samples, or features that are not finite.
    """
    points = FeatureBlocks.of(features)
    if k < 1:
        raise UsageError(f"k={k}: a neighbourhood has at least one neighbour.")
    if len(points) <= k:
        raise UsageError(f"{len(points)} points have no {k} neighbours each; use a smaller k.")
    task = functools.partial(_nearest_of_block, points, points.mean(), k)
    return np.concatenate(each(task, points.blocks(), scheduler=scheduler, workers=workers))


def _nearest_of_block(points: FeatureBlocks, centre: Array, k: int, rows: slice) -> NDArray[np.float64]:
    own = points.read(rows) - centre
    kept = np.full((len(own), k), np.inf)
    for columns in points.blocks():
        squares = squared_distances(own, points.read(columns) - centre)
        if columns == rows:
            np.fill_diagonal(squares, np.inf)  # a point is no neighbour of itself
        if k < squares.shape[1]:
            squares = np.partition(squares, k - 1, axis=1)[:, :k]
        kept = np.sort(np.concatenate([kept, squares], axis=1), axis=1)[:, :k]
    return kept


@dataclass(frozen=True)
class Judged:
    """Where the samples of a set lie beside the balls of another; of every set of radii (R,) and sample (n,).

    - inside: whether a sample lies in any ball, (R, n); the border counts.
    - balls: how many balls hold it, int64 (R, n).
    - nearest: squared distance to the nearest centre, (n,).
    """

    inside: NDArray[np.bool_]
    balls: NDArray[np.int64]
    nearest: NDArray[np.float64]


def judge(
    features: Any,
    centres: Any,
    radii: Sequence[Array],
    *,
    scheduler: Any = "threads",
    workers: int | None = None,
) -> Judged:
    """Where samples lie beside balls.

    Args:
      features: of the judged samples, (n, ...).
      centres: of the balls, (m, ...).
      radii: squared radii, each (m,).

    Raises:
      UsageError: sets of different features, or features that are not finite.
    """
    judged, balls = FeatureBlocks.of(features), FeatureBlocks.of(centres)
    if judged.num_features != balls.num_features:
        raise UsageError(
            f"points of {balls.num_features} and {judged.num_features} features have no distance; give two sets of the "
            "same features."
        )
    squares = np.stack(radii) if radii else np.empty((0, len(balls)))
    task = functools.partial(_judge_block, judged, balls, balls.mean(), squares)
    found = each(task, judged.blocks(), scheduler=scheduler, workers=workers)
    inside, held, nearest = (np.concatenate(parts, axis=-1) for parts in zip(*found, strict=True))
    return Judged(inside, held, nearest)


def _judge_block(
    judged: FeatureBlocks, balls: FeatureBlocks, centre: Array, radii: Array, rows: slice
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.float64]]:
    own = judged.read(rows) - centre
    held, nearest = np.zeros((len(radii), len(own)), dtype=np.int64), np.full(len(own), np.inf)
    for columns in balls.blocks():
        squares = squared_distances(balls.read(columns) - centre, own)
        for index, radius in enumerate(radii):
            held[index] += (squares <= radius[columns, None]).sum(axis=0)
        nearest = np.minimum(nearest, squares.min(axis=0))
    return held > 0, held, nearest


def neighbour_measures(
    real: Any,
    generated: Any,
    *,
    precision_k: int | None = PRECISION_K,
    density_k: int | None = DENSITY_K,
    num_replicates: int = NUM_REPLICATES,
    scheduler: Any = "threads",
    workers: int | None = None,
) -> dict[str, Estimate]:
    """Precision and recall, density and coverage of generated features against real ones; see the functions below.

    All four need two passes over each set's own pairs and over the pairs of both, as the first two alone do.

    Args:
      real, generated: features (m, ...) and (n, ...), in memory or not; see `FeatureBlocks`.
      precision_k: neighbours that the balls of precision and recall reach; None leaves these out.
      density_k: those of density and coverage; None leaves these out.
      num_replicates: of the bootstrap over the samples that are judged; the balls stay.
      scheduler, workers: as in `taba_core.stats.reduce`.

    Raises:
      UsageError: features that are not finite or not of one size, or not more samples than neighbours.
    """
    sets, where = (
        [FeatureBlocks.of(x) for x in (real, generated)],
        {"scheduler": scheduler, "workers": workers},
    )
    wanted = [k for k in (precision_k, density_k) if k is not None]
    if sets[0].num_features != sets[1].num_features or not wanted:
        told = " and ".join(str((len(one), one.num_features)) for one in sets)
        raise UsageError(f"neighbours in {told} features: give two sets of the same features, and a k.")
    squares = nearest_squares(sets[0], max(wanted), **where)
    of_real = [squares[:, k - 1] for k in wanted]
    of_generated = [] if precision_k is None else [nearest_squares(sets[1], precision_k, **where)[:, -1]]
    by_real = judge(sets[1], sets[0], of_real, **where)
    by_generated = judge(sets[0], sets[1], of_generated, **where)
    mean = functools.partial(_mean, num_replicates=num_replicates)
    found: dict[str, Estimate] = {}
    if precision_k is not None:
        found |= {"precision": mean(by_real.inside[0]), "recall": mean(by_generated.inside[0])}
    if density_k is not None:
        found |= {
            "density": mean(by_real.balls[-1]) / density_k,
            "coverage": mean(by_generated.nearest <= of_real[-1]),
        }
    return found


def precision_recall(
    real: Any, generated: Any, *, k: int = PRECISION_K, **options: Any
) -> dict[str, Estimate]:
    """Precision and recall of generated features (m, ...) against real ones (n, ...).

    Precision is the share of generated samples inside the balls of real ones, recall the reverse (Kynkaanniemi et al.
    2019, Eq. 1-2: f(phi, Phi) = 1 if |phi - phi'| <= |phi' - NN_k(phi', Phi)| for any phi' in Phi; the border counts).
    The intervals resample the samples that are judged, the balls stay. `options` and errors as in `neighbour_measures`.
    """
    return neighbour_measures(real, generated, precision_k=k, density_k=None, **options)


def density_coverage(real: Any, generated: Any, *, k: int = DENSITY_K, **options: Any) -> dict[str, Estimate]:
    """Density and coverage of generated features (n, ...) against real ones (m, ...) (Naeem et al. 2020, Eq. 3-4).

    Density is 1 / (k n) sum over generated x_j and real y_i of 1[x_j in B(y_i, NND_k(y_i))], so it can exceed 1;
    coverage is the share of real samples whose ball holds a generated one. Borders count. k = 5 is the paper's. The
    intervals resample what is averaged over, the generated samples for density and the real ones for coverage; the
    balls stay. `options` and errors as in `neighbour_measures`.
    """
    return neighbour_measures(real, generated, precision_k=None, density_k=k, **options)


def _mean(values: Array, *, num_replicates: int) -> Estimate:
    """Mean of one number a sample, (n,), with its bootstrap."""
    block = {SAMPLE: np.arange(len(values)), "value": values}
    reduced = reduce_blocks([block], len(values), {"mean": ValueMean("value")})["mean"]
    return estimates(reduced, num_replicates=num_replicates)["mean"]
