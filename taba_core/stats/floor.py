"""What a statistic reads for perfect white noise at finite n: the floor every number is printed with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy

from taba_core.errors import UsageError

_QUADRATURE = 400


class CorrelationFloor(NamedTuple):
    """Expected mean of the top correlations of white noise, and the pooled spread of them."""

    mean: float
    spread: float


def correlation_floor(n: int, num_features: int, top_k: int = 20) -> CorrelationFloor:
    """`PatchCorrelation.mean_top` and `.spread` of white noise with n samples and p positions a patch.

    For independent Gaussian positions r^2 ~ Beta(1/2, (n-2)/2). The j-th largest of the m = p(p-1)/2 values
    has the upper tail probability U ~ Beta(j, m+1-j), so E|r|_(j) = E sqrt(Q(U)) with Q the inverse tail of
    r^2; the floor is the mean over j = 1..top_k. Treats the pairs as independent; agrees with simulation to
    .002.

    Raises:
      UsageError: n < 3, or more top_k than pairs.

    >>> round(correlation_floor(2048, 192).mean, 4)  # 8 x 8 patches of three channels
    0.0778
    """
    pairs = num_features * (num_features - 1) // 2
    if n < 3 or not 1 <= top_k <= pairs:
        raise UsageError(
            f"no correlation floor for n={n}, num_features={num_features}, top_k={top_k}: needs n >= 3 and "
            f"1 <= top_k <= {pairs} pairs."
        )
    quantiles = (np.arange(_QUADRATURE) + 0.5) / _QUADRATURE
    rank = np.arange(1, top_k + 1)[:, None]
    tail = scipy.special.betaincinv(rank, pairs + 1 - rank, quantiles)
    r2 = scipy.special.betainccinv(0.5, (n - 2) / 2, tail)
    mean = np.sqrt(r2).mean()
    return CorrelationFloor(float(mean), float(np.sqrt(max(r2.mean() - mean**2, 0.0))))


def kl_floor(n: int, *, known_normal: bool = False) -> float:
    """E of `EntryKL` for white noise at n samples (nats an entry); exact for Gaussian entries.

    Both fitted on independent sets: E s_P^2/s_Q^2 = (n-1)/(n-3) gives (2n - 1)/(n (n - 3)), about 2/n.
    P = N(0, 1) known: ((n-1)/(n-3) (1 + 1/n) - 1 + psi((n-1)/2) - ln((n-1)/2)) / 2, about 1/n.

    Raises:
      UsageError: n < 4, where the expectation is infinite.

    >>> round(kl_floor(2048) * 2048, 2)
    2.0
    """
    if n < 4:
        raise UsageError(f"n={n}: the expected KL divergence of fitted Gaussians is infinite below n = 4.")
    if not known_normal:
        return (2 * n - 1) / (n * (n - 3))
    half = (n - 1) / 2
    return float(((n - 1) / (n - 3) * (1 + 1 / n) - 1 + scipy.special.psi(half) - np.log(half)) / 2)
