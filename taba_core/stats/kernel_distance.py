"""Kernel distance of two sets of features (KID): sums over pairs of samples, hence over pairs of blocks."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taba_core.blas import use_one_blas_thread
from taba_core.errors import UsageError
from taba_core.stats.base import Array, flat
from taba_core.stats.estimate import Estimate

NUM_GROUPS = 20


def kernel_distance(
    real: Array, generated: Array, *, num_groups: int = NUM_GROUPS, scheduler: Any = "threads"
) -> Estimate:
    """Unbiased squared maximum mean discrepancy with k(u, v) = (u.v / d + 1)^3 (Binkowski et al. 2018).

    mean_{i != j} k(r_i, r_j) + mean_{i != j} k(g_i, g_j) - 2 mean k(r_i, g_j), over all pairs: no random subsets.
    Moments of the sets do not give it (they would need third powers), so the features stay and the sums are taken over
    pairs of groups of consecutive samples. Every group pair is one task, computed the same anywhere, and the sums meet
    in one order: no scheduler changes a bit. The interval is the jackknife over groups.

    Args:
      real, generated: features of n samples each, (n, ...).
      num_groups: groups of the jackknife, and the blocks of pairs.

    Raises:
      UsageError: sets of different sizes or features, not finite, or fewer than two samples.
    """
    import dask

    sets = (flat(real), flat(generated))
    n = len(sets[0])
    if sets[1].shape != sets[0].shape or n < 2:
        raise UsageError(
            f"kernel distance of {sets[0].shape} and {sets[1].shape} features; it takes two sets of equally many "
            f"samples (at least 2) of the same features."
        )
    if not all(np.isfinite(x).all() for x in sets):
        raise UsageError("features hold values that are not finite; their kernel distance means nothing.")
    use_one_blas_thread()
    bounds = np.linspace(0, n, min(num_groups, n) + 1).astype(int)
    groups = [slice(a, b) for a, b in itertools.pairwise(bounds)]
    task = dask.delayed(_row_of_sums, pure=False)  # type: ignore[attr-defined]
    rows = dask.compute(  # type: ignore[attr-defined]
        *[task(sets, groups, index) for index in range(len(groups))], scheduler=scheduler
    )
    sums, sizes = np.stack(rows, axis=1), np.diff(bounds)
    value = _distance(sums, sizes)
    left_out = [np.arange(len(groups)) != index for index in range(len(groups))]
    usable = len(groups) > 2 and n - sizes.max() > 1
    replicates = [_distance(sums[:, keep][:, :, keep], sizes[keep]) for keep in left_out] if usable else []
    return Estimate(
        np.asarray(value), np.asarray(replicates, dtype=np.float64), "jackknife", n, tuple(sizes.tolist())
    )


def _row_of_sums(sets: tuple[Array, Array], groups: list[slice], index: int) -> NDArray[np.float64]:
    """Kernel sums of one group with every group, (3, groups): real-real, generated-generated, real-generated."""
    real, generated = sets
    out = np.empty((3, len(groups)))
    for other, columns in enumerate(groups):
        for pair, (a, b) in enumerate(((real, real), (generated, generated), (real, generated))):
            kernel = (a[groups[index]] @ b[columns].T / a.shape[1] + 1) ** 3
            if pair < 2 and other == index:
                np.fill_diagonal(kernel, 0.0)
            out[pair, other] = kernel.sum()
    return out


def _distance(sums: Array, sizes: Array) -> float:
    n = int(sizes.sum())
    within, across = n * (n - 1), n * n
    return float(sums[0].sum() / within + sums[1].sum() / within - 2 * sums[2].sum() / across)
