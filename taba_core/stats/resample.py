"""From reduced states to estimates: Poisson bootstrap over samples, or jackknife over groups of blocks."""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from taba_core.blas import use_one_blas_thread
from taba_core.rng import uniform
from taba_core.stats.base import Array, SampleStatistic
from taba_core.stats.estimate import Estimate
from taba_core.stats.tree import Reduced

NUM_REPLICATES = 1000
STREAM = "bootstrap"
_POISSON_CDF = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(20)])


def estimates(
    reduced: Reduced, seed: int = 0, *, num_replicates: int = NUM_REPLICATES
) -> dict[str, Estimate]:
    """Every named value of a reduced statistic, with replicates.

    Args:
      reduced: result of `reduce`.
      seed: of the bootstrap weights; estimates that shall be paired need the same seed. Unused by the
        jackknife.
      num_replicates: B of the bootstrap.
    """
    use_one_blas_thread()
    if isinstance(reduced.statistic, SampleStatistic):
        return _bootstrap(reduced, reduced.statistic, seed, num_replicates)
    return _jackknife(reduced)


def poisson_weights(
    sample_ids: Array, *, seed: int, num_replicates: int = NUM_REPLICATES
) -> NDArray[np.float64]:
    """Poisson(1) weights of samples, (num_replicates, len(sample_ids)).

    The weight of a sample in a replicate is the inverse Poisson CDF of one uniform number that depends on
    (seed, sample id, replicate) only: it is the same for every statistic, every split of the samples, and every n.
    """
    ids = np.ascontiguousarray(sample_ids, dtype=np.int64)
    return _weights(ids.tobytes(), seed, num_replicates).T.astype(np.float64)


@functools.lru_cache(maxsize=64)  # all statistics of a study ask for the same weights; 64 x 256 kB at most
def _weights(ids: bytes, seed: int, num_replicates: int) -> NDArray[np.uint8]:
    draws = uniform(np.frombuffer(ids, dtype=np.int64), (num_replicates,), seed=seed, stream=STREAM)
    return np.searchsorted(_POISSON_CDF, draws).astype(np.uint8)


def _bootstrap(
    reduced: Reduced, statistic: SampleStatistic, seed: int, num_replicates: int
) -> dict[str, Estimate]:
    weights = functools.partial(poisson_weights, seed=seed, num_replicates=num_replicates)
    replicates = statistic.weighted(reduced.total, weights)
    return {
        name: Estimate(
            np.asarray(value, dtype=np.float64), replicates[name], "bootstrap", reduced.n, (), reduced.samples
        )
        for name, value in reduced.summary().items()
    }


def _jackknife(reduced: Reduced) -> dict[str, Estimate]:
    value = reduced.summary()
    if len(reduced.groups) < 2:  # nothing to leave out: no replicates, hence no interval
        empty = {name: np.empty((0, *np.shape(v))) for name, v in value.items()}
        return {
            n: Estimate(
                np.asarray(v, dtype=np.float64), empty[n], "jackknife", reduced.n, (), reduced.samples
            )
            for n, v in value.items()
        }
    left_out = reduced.statistic.summaries_without(reduced.groups)
    return {
        name: Estimate(
            np.asarray(v, dtype=np.float64),
            np.stack([np.asarray(one[name], dtype=np.float64) for one in left_out]),
            "jackknife",
            reduced.n,
            reduced.group_sizes,
            reduced.samples,
        )
        for name, v in value.items()
    }
