"""What a smallest-distance mapping tells: how often it is right, and which states attract too many (Figures 14, 15).

Axes: n samples, B bootstrap replicates. Resampled are the queries; the candidates stay as they are.
"""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray

from taba_core.errors import UsageError
from taba_core.stats.base import Array, ratio
from taba_core.stats.estimate import Estimate
from taba_core.stats.nearest import NOBODY, Nearest
from taba_core.stats.resample import NUM_REPLICATES, poisson_weights
from taba_core.stats.tree import MAX_GROUPS
from taba_core.verdicts import Verdict


def equal_divisions(num_samples: int, count: int) -> NDArray[np.int64]:
    """Labels 0..count-1 of consecutive runs of samples whose lengths differ by at most one, (num_samples,).

    The paper: 8 divisions of n/8. Raises UsageError for fewer samples than divisions, or no division.
    """
    if not 1 <= count <= num_samples:
        raise UsageError(f"{count} divisions of {num_samples} samples; use 1 to {num_samples}.")
    return np.arange(num_samples) * count // num_samples


def hits(found: Nearest) -> NDArray[np.bool_]:
    """Whether the nearest of sample i is i, (n,); a sample with no nearest is a miss."""
    return np.asarray(found.id == np.arange(len(found.id)))


def accuracy(found: Nearest, *, seed: int = 0, num_replicates: int = NUM_REPLICATES) -> Estimate:
    """Share of hits, with bootstrap replicates over queries: for differences between mappings of the same samples.

    For the level of one accuracy use `binomial_interval`: a bootstrap of n hits out of n knows no miss.
    """
    hit = hits(found).astype(np.float64)
    weights = _weights(len(hit), seed, num_replicates)
    return Estimate(hit.mean(), ratio(weights @ hit, weights.sum(axis=1)), "bootstrap", len(hit))


def binomial_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Exact (Clopper-Pearson) interval of a share; (0, 1) without trials.

    256 of 256 hits: lower end (0.025)^(1/256) = .9857.

    Raises:
      UsageError: successes outside 0..trials, or level outside (0, 1).
    """
    if not (0 <= successes <= trials and 0 < level < 1):
        raise UsageError(
            f"{successes} of {trials} at level {level}: give 0 <= successes <= trials, 0 < level < 1."
        )
    tail = (1 - level) / 2
    low = scipy.special.betaincinv(successes, trials - successes + 1, tail) if successes else 0.0
    high = (
        scipy.special.betaincinv(successes + 1, trials - successes, 1 - tail) if successes < trials else 1.0
    )
    return float(low), float(high)


def share_above(successes: int, trials: int, bound: float) -> Verdict:
    """Is a share at least `bound`? Judged on its exact 95 % interval."""
    low, high = binomial_interval(successes, trials)
    if low >= bound:
        return "holds"
    return "fails" if high < bound else "not resolved"


def division_accuracies(found: Nearest, division: Array) -> NDArray[np.float64]:
    """Share of hits within each division, in the order of their labels (the paper's ± is their spread)."""
    _, place = np.unique(division, return_inverse=True)
    return np.asarray(np.bincount(place, weights=hits(found)) / np.bincount(place))


def attraction(found: Nearest, num_candidates: int | None = None) -> NDArray[np.int64]:
    """In-degree of each candidate: the queries it is the nearest of, (num_candidates,) (default: n)."""
    chosen = found.id[found.id != NOBODY]
    return np.bincount(chosen, minlength=num_candidates or len(found.id))


def resampled_attraction(
    found: Nearest, *, seed: int = 0, num_replicates: int = NUM_REPLICATES
) -> NDArray[np.float64]:
    """In-degrees under bootstrap weights of the queries, (B, n)."""
    weights = _weights(len(found.id), seed, num_replicates)
    counts = np.zeros((num_replicates, len(found.id)))
    somebody = found.id != NOBODY
    order = np.argsort(found.id[somebody], kind="stable")
    chosen, starts = np.unique(found.id[somebody][order], return_index=True)
    if chosen.size:
        counts[:, chosen] = np.add.reduceat(weights[:, somebody][:, order], starts, axis=1)
    return counts


def rank_correlation(found: Nearest, trait: Array, *, max_groups: int = MAX_GROUPS) -> Estimate:
    """Spearman correlation over candidates between in-degree and a trait (n,), such as the norm; ties share ranks.

    Its interval leaves out groups of consecutive queries: Poisson weights would set a third of the in-degrees of
    one to nought, and with new ties the correlation itself moves. NaN where all in-degrees or all traits are
    equal (n = 1, a perfect mapping).
    """
    traits, n = scipy.stats.rankdata(trait), len(found.id)
    groups = equal_divisions(n, min(max_groups, n))
    degrees = np.stack([_in_degrees(found, np.ones(n, dtype=bool))])
    left_out = [_in_degrees(found, groups != group) for group in range(groups[-1] + 1)] if n > 1 else []
    values = _pearson(
        scipy.stats.rankdata(np.concatenate([degrees, *(x[None] for x in left_out)]), axis=1), traits
    )
    sizes = tuple(np.bincount(groups).tolist()) if left_out else ()
    return Estimate(values[0], values[1:], "jackknife", n, sizes)


def _in_degrees(found: Nearest, used: Array) -> NDArray[np.int64]:
    return np.bincount(found.id[used & (found.id != NOBODY)], minlength=len(found.id))


def top_overlap(
    found: Nearest, chosen: Array, *, seed: int = 0, num_replicates: int = NUM_REPLICATES
) -> Estimate:
    """How many of the len(chosen) greatest attractors are among `chosen` candidates; ties by smallest id."""
    counts = attraction(found)[None].astype(np.float64)
    replicates = resampled_attraction(found, seed=seed, num_replicates=num_replicates)

    def overlap(degrees: Array) -> NDArray[np.float64]:
        top = np.argsort(-degrees, axis=1, kind="stable")[:, : len(chosen)]
        return np.isin(top, chosen).sum(axis=1).astype(np.float64)

    return Estimate(np.asarray(overlap(counts)[0]), overlap(replicates), "bootstrap", len(found.id))


def _weights(n: int, seed: int, num_replicates: int) -> NDArray[np.float64]:
    return poisson_weights(np.arange(n), seed=seed, num_replicates=num_replicates)


def _pearson(rows: Array, column: Array) -> NDArray[np.float64]:
    x, y = rows - rows.mean(axis=1, keepdims=True), column - column.mean()
    return np.asarray(ratio(x @ y, np.sqrt(np.square(x).sum(axis=1) * np.square(y).sum())))
