"""Kernel distance of two sets of features (KID): sums over pairs of samples, hence over pairs of blocks."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taba_core.errors import UsageError
from taba_core.stats.base import Array
from taba_core.stats.estimate import Estimate
from taba_core.stats.feature_blocks import FeatureBlocks, cut, each

NUM_GROUPS = 20


def kernel_distance(
    real: Any, generated: Any, *, num_groups: int = NUM_GROUPS, scheduler: Any = "threads"
) -> Estimate:
    """Unbiased squared maximum mean discrepancy with k(u, v) = (u.v / d + 1)^3 (Binkowski et al. 2018).

    mean_{i != j} k(r_i, r_j) + mean_{i != j} k(g_i, g_j) - 2 mean k(r_i, g_j), over all pairs: no random subsets.
    Moments of the sets do not give it (they would need third powers), so the features are read again and again, block
    by block, and the sums are taken over pairs of groups of consecutive samples. The pairs of a group with every group
    are one task, computed the same anywhere, and the sums meet in one order: no scheduler changes a bit. A task has
    four blocks in memory, whatever n is; a block is a group, or 1,024 rows of a group that has more. The interval is
    the jackknife over groups.

    Args:
      real, generated: features of n samples each, (n, ...), in memory or not; see `FeatureBlocks`.
      num_groups: groups of the jackknife.

    Raises:
      UsageError: sets of different sizes or features, not finite, or fewer than two samples.
    """
    sets = FeatureBlocks.of(real), FeatureBlocks.of(generated)
    n = len(sets[0])
    shapes = [(len(one), one.num_features) for one in sets]
    if shapes[0] != shapes[1] or n < 2:
        raise UsageError(
            f"kernel distance of {shapes[0]} and {shapes[1]} features; it takes two sets of equally many "
            f"samples (at least 2) of the same features."
        )
    bounds = np.linspace(0, n, min(num_groups, n) + 1).astype(int).tolist()
    groups = [slice(a, b) for a, b in itertools.pairwise(bounds)]
    rows = each(functools.partial(_row_of_sums, sets, groups), groups, scheduler=scheduler)
    sums, sizes = np.stack(rows, axis=1), np.diff(bounds)
    value = _distance(sums, sizes)
    left_out = [np.arange(len(groups)) != index for index in range(len(groups))]
    usable = len(groups) > 2 and n - sizes.max() > 1
    replicates = [_distance(sums[:, keep][:, :, keep], sizes[keep]) for keep in left_out] if usable else []
    return Estimate(
        np.asarray(value), np.asarray(replicates, dtype=np.float64), "jackknife", n, tuple(sizes.tolist())
    )


def _row_of_sums(
    sets: tuple[FeatureBlocks, FeatureBlocks], groups: list[slice], group: slice
) -> NDArray[np.float64]:
    """Kernel sums of one group with every group, (3, groups): real-real, generated-generated, real-generated."""
    out = np.zeros((3, len(groups)))
    for rows in cut(group):
        real, generated = (of.read(rows) for of in sets)
        for other, columns in enumerate(groups):
            for part in cut(columns):
                real_part, generated_part = (of.read(part) for of in sets)
                same = part.start == rows.start
                out[0, other] += _kernel_sum(real, real_part, same)
                out[1, other] += _kernel_sum(generated, generated_part, same)
                out[2, other] += _kernel_sum(real, generated_part)
    return out


def _kernel_sum(a: Array, b: Array, same: bool = False) -> float:
    """Sum of k(u, v) over the rows u of one block and v of another; of one block with itself without k(u, u)."""
    kernel = (a @ b.T / a.shape[1] + 1) ** 3
    if same:
        np.fill_diagonal(kernel, 0.0)
    return float(kernel.sum())


def _distance(sums: Array, sizes: Array) -> float:
    n = int(sizes.sum())
    within, across = n * (n - 1), n * n
    return float(sums[0].sum() / within + sums[1].sum() / within - 2 * sums[2].sum() / across)
