"""Do two sets of images have the same distribution of features? Fréchet distance, Inception score (Figure 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from taba_core.errors import UsageError
from taba_core.stats.base import (
    COUNT,
    Array,
    Block,
    MomentStatistic,
    State,
    as_float64,
    merge_means,
)
from taba_core.stats.comoments import CoMomentStatistic
from taba_core.stats.inputs import ANY, Input, features, function_name


def frechet_distance(mean_p: Array, cov_p: Array, mean_q: Array, cov_q: Array) -> float:
    """Fréchet distance of two Gaussians, ||mu_p - mu_q||^2 + tr(S_p + S_q - 2 (S_p S_q)^(1/2))  (Heusel et al. 2017).

    tr (S_p S_q)^(1/2) is the sum of the roots of the eigenvalues of S_p^(1/2) S_q S_p^(1/2), which is symmetric:
    no complex root of a singular product, no jitter on its diagonal.

    Args:
      mean_p, mean_q: (d,).
      cov_p, cov_q: (d, d).

    Returns:
      The squared distance (the "FID" of Inception features); NaN if a covariance is.
    """
    if not (np.isfinite(cov_p).all() and np.isfinite(cov_q).all()):
        return float("nan")
    values, vectors = np.linalg.eigh(cov_p)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_q @ root), 0.0)).sum()
    gap = np.square(mean_p - mean_q).sum()
    return float(max(gap + np.trace(cov_p) + np.trace(cov_q) - 2 * cross, 0.0))


def frechet_of_rows(p: Array, q: Array) -> float:
    """`frechet_distance` of the means and sample covariances of two sets of features, (n, d) and (m, d); NaN for n < 2.

    Of fewer rows than features, with centred rows A = (P - mean) / sqrt(n - 1) and B alike, S_p = A^T A and
    S_q = B^T B: tr (S_p S_q)^(1/2) is the sum of the singular values of A B^T, which is (n, m) and not (d, d).
    """
    n, m = len(p), len(q)
    if min(n, m) < 2:
        return float("nan")
    means = p.mean(axis=0), q.mean(axis=0)
    if max(n, m) >= p.shape[1]:
        covariances = [np.atleast_2d(np.cov(x, rowvar=False)) for x in (p, q)]
        return frechet_distance(means[0], covariances[0], means[1], covariances[1])
    a, b = (p - means[0]) / np.sqrt(n - 1), (q - means[1]) / np.sqrt(m - 1)
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    gap = np.square(means[0] - means[1]).sum()
    return float(max(gap + np.square(a).sum() + np.square(b).sum() - 2 * cross, 0.0))


def _as_rows(values: Array) -> Array:
    """All entries of a sample on one axis, (n, d), in their own type, because rows may be kept."""
    return np.ascontiguousarray(values).reshape(len(values), -1)


@dataclass(frozen=True)
class FeatureMoments(CoMomentStatistic):
    """Mean (d,) and sample covariance (d, d) of features, for `frechet_distance` between sets of any sizes.

    State: d + d^2 float64 (33.5 MB for 2048 features), fewer than d samples as rows.
    """

    variable: str = "features"

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The one variable, (n, d) or (n, ...)."""
        return (features(self.variable),)

    def features(self, block: Block) -> Array:
        """The one set, (1, n, d)."""
        return _as_rows(block[self.variable])[None]

    def rows_kept(self, num_features: int) -> int:
        """Below d samples, rows are smaller than co-moments."""
        return max(super().rows_kept(num_features), num_features)

    def summarise(self, state: State) -> dict[str, Array]:
        """Mean, and covariance (NaN for n < 2)."""
        return {"mean": self.moments(state)["mean"][0], "covariance": self.covariance(state)[0]}


@dataclass(frozen=True)
class FrechetDistance(CoMomentStatistic):
    """Fréchet distance of two sets of equally many features, such as real and generated images (FID, Figure 5).

    Biased upwards, by about d/n: compare sets of the same n only. For sets of different sizes reduce
    `FeatureMoments` of each and call `frechet_distance`.

    Values (scalars): distance; mean_gap = ||mu_p - mu_q||^2, its part that is a shift. NaN for n < 2.
    """

    reference: str = "features_real"
    estimate: str = "features"

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Two variables, (n, d) or (n, ...)."""
        return (features(self.reference), features(self.estimate))

    def features(self, block: Block) -> Array:
        """The two sets, (2, n, d)."""
        return np.stack([_as_rows(block[name]) for name in self.variables])

    def rows_kept(self, num_features: int) -> int:
        """Below d samples, rows are smaller than co-moments."""
        return max(super().rows_kept(num_features), num_features)

    def summarise(self, state: State) -> dict[str, Array]:
        """Compare the two Gaussians."""
        mean, cov = self.moments(state)["mean"], self.covariance(state)
        distance = frechet_distance(mean[0], cov[0], mean[1], cov[1])
        gap = np.square(mean[0] - mean[1]).sum() if int(state[COUNT]) > 1 else np.nan
        return {"distance": np.asarray(distance), "mean_gap": np.asarray(gap)}


@dataclass(frozen=True)
class InceptionScore(MomentStatistic):
    """exp(mean over samples of KL(p(class | x) || mean p)), over one split (Salimans et al. 2016).

    The customary mean over ten splits depends on the order of the samples and is not offered.

    Values (scalars): score, 1 (no information) to the number of classes.
    """

    variable: str = "probability"

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Class probabilities, (n, K), each row summing to one."""
        return (Input(self.variable, "class probabilities", (ANY,)),)

    def partial(self, block: Block) -> State:
        """Mean probabilities (K,) and mean of sum p ln p of a block."""
        p = as_float64(block[self.variable])
        if p.ndim != 2 or (p < 0).any() or (np.abs(p.sum(axis=1) - 1) > 1e-3).any():
            raise UsageError(
                f"{function_name(self)}: {self.variable} must hold class probabilities (n, K): not negative, "
                f"each row summing to 1. Apply the softmax first."
            )
        information = scipy.special.xlogy(p, p).sum(axis=1).mean()
        return {
            COUNT: np.asarray(len(p), dtype=np.int64),
            "mean": p.mean(axis=0),
            "information": np.asarray(information),
        }

    def combine(self, a: State, b: State) -> State:
        """Means merge by their counts."""
        return {name: merge_means(a, b, name)[0] for name in ("mean", "information")}

    def summarise(self, state: State) -> dict[str, Array]:
        """Exponential of the mean information."""
        entropy = scipy.special.xlogy(state["mean"], state["mean"]).sum()
        return {"score": np.asarray(np.exp(state["information"] - entropy))}
