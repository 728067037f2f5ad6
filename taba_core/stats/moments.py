"""Is a set of states standard normal? Moments, and divergences from Gaussian noise (Tables 4, 7, 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taba_core.stats.base import (
    COUNT,
    Array,
    Block,
    MomentStatistic,
    RowStatistic,
    State,
    flat,
    merge_means,
    ratio,
    std_from_sums,
)
from taba_core.stats.floor import kl_floor
from taba_core.stats.inputs import Input, entries


def gaussian_kl(mean_p: Array, std_p: Array, mean_q: Array, std_q: Array) -> NDArray[np.float64]:
    """KL(N(mean_p, std_p^2) || N(mean_q, std_q^2)) in nats, elementwise.

    ln(std_q/std_p) + (std_p^2 + (mean_p - mean_q)^2) / (2 std_q^2) - 1/2
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = (np.square(std_p) + np.square(mean_p - mean_q)) / (2 * np.square(std_q))
        return np.asarray(np.log(std_q / std_p) + spread - 0.5)


@dataclass(frozen=True)
class Moments(RowStatistic):
    """First four moments of all N entries, pooled over samples, channels and pixels.

    Values (scalars): mean; std (n-1); skewness S = m3/m2^1.5 and excess_kurtosis K = m4/m2^2 - 3, both 0 for
    normal entries; jarque_bera = N/6 (S^2 + K^2/4), about 2 (chi-squared of 2 degrees) for independent normal
    entries, and larger where they are dependent: read it with its interval.
    """

    variable: str

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The one variable, (n, ...)."""
        return (entries(self.variable),)

    def rows(self, block: Block) -> dict[str, Array]:
        """Power sums of a sample's entries, (n, 4), and their number."""
        x = flat(block[self.variable])
        x2 = np.square(x)
        powers = [x.sum(axis=1), x2.sum(axis=1), (x * x2).sum(axis=1), np.square(x2).sum(axis=1)]
        return {"powers": np.stack(powers, axis=1), "entries": np.full(len(x), x.shape[1])}

    def summarise_sums(self, sums: Mapping[str, Array], count: Array) -> dict[str, Array]:
        """Central moments from power sums."""
        entries = sums["entries"]
        m1, p2, p3, p4 = (ratio(sums["powers"][..., k], entries) for k in range(4))
        m2 = np.maximum(p2 - m1**2, 0.0)
        m3 = p3 - 3 * m1 * p2 + 2 * m1**3
        m4 = p4 - 4 * m1 * p3 + 6 * m1**2 * p2 - 3 * m1**4
        skewness, kurtosis = ratio(m3, m2**1.5), ratio(m4, m2**2) - 3
        return {
            "mean": m1,
            "std": std_from_sums(entries, sums["powers"][..., 0], sums["powers"][..., 1]),
            "skewness": skewness,
            "excess_kurtosis": kurtosis,
            "jarque_bera": entries / 6 * (np.square(skewness) + np.square(kurtosis) / 4),
        }


@dataclass(frozen=True)
class GlobalKL(RowStatistic):
    """KL(P || Q) of two scalar Gaussians, each fitted to all entries of a variable (nats).

    Values (scalars): kl, mean_p, std_p, mean_q, std_q.
    """

    p: str = "noise"
    q: str = "latent"

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Two variables, (n, ...)."""
        return (entries(self.p, grid="p"), entries(self.q, grid="q"))

    def rows(self, block: Block) -> dict[str, Array]:
        """Sums and sums of squares of a sample's entries, (n, 2) for p and q."""
        p, q = flat(block[self.p]), flat(block[self.q])
        return {
            "entries": np.stack([np.full(len(x), x.shape[1]) for x in (p, q)], axis=1),
            "total": np.stack([x.sum(axis=1) for x in (p, q)], axis=1),
            "squares": np.stack([np.square(x).sum(axis=1) for x in (p, q)], axis=1),
        }

    def summarise_sums(self, sums: Mapping[str, Array], count: Array) -> dict[str, Array]:
        """Fit both Gaussians and compare."""
        mean = ratio(sums["total"], sums["entries"])
        std = std_from_sums(sums["entries"], sums["total"], sums["squares"])
        mean_p, mean_q, std_p, std_q = mean[..., 0], mean[..., 1], std[..., 0], std[..., 1]
        kl = gaussian_kl(mean_p, std_p, mean_q, std_q)
        return {"kl": kl, "mean_p": mean_p, "std_p": std_p, "mean_q": mean_q, "std_q": std_q}


@dataclass(frozen=True)
class EntryKL(MomentStatistic):
    """KL(P || Q) of Gaussians fitted to every entry over samples, mean over the d entries (Tables 4, 7, 9).

    p=None compares with N(0, 1) exactly, which has half the floor of a second fitted set and no pairing:
    noise and the latent made from it are not independent, and a perfect inversion would read less than any
    noise.

    Values (scalars): kl in nats an entry; kl_excess = kl - floor.kl_floor(n), 0 in expectation for white
    noise (for p=None, or p independent of q; NaN for n < 4). All NaN for n < 2.

    Attributes:
      epsilon: added to both standard deviations, as in the reference; keeps the value finite where an entry
        is constant.
    """

    p: str | None = "noise"
    q: str = "latent"
    epsilon: float = 1e-6

    @property
    def inputs(self) -> tuple[Input, ...]:
        """One or two variables, (n, ...)."""
        q = entries(self.q)
        return (q,) if self.p is None else (entries(self.p), q)

    def partial(self, block: Block) -> State:
        """Mean and sum of squared deviations of every entry, (1 or 2, d)."""
        x = np.stack([flat(block[name]) for name in self.variables])
        mean = x.mean(axis=1)
        squares = np.square(x - mean[:, None, :]).sum(axis=1)
        return {COUNT: np.asarray(x.shape[1], dtype=np.int64), "mean": mean, "squares": squares}

    def combine(self, a: State, b: State) -> State:
        """Chan's rule per entry."""
        mean, delta, weight = merge_means(a, b, "mean")
        return {"mean": mean, "squares": a["squares"] + b["squares"] + weight * np.square(delta)}

    def summarise(self, state: State) -> dict[str, Array]:
        """Average the divergence over entries."""
        n, mean = int(state[COUNT]), state["mean"]
        if n < 2:
            return {"kl": np.asarray(np.nan), "kl_excess": np.asarray(np.nan)}
        std = np.sqrt(state["squares"] / (n - 1)) + self.epsilon
        known = self.p is None
        mean_p, std_p = (np.zeros(()), np.ones(())) if known else (mean[0], std[0])
        kl = gaussian_kl(mean_p, std_p, mean[-1], std[-1]).mean()
        floor = kl_floor(n, known_normal=known) if n >= 4 else np.nan
        return {"kl": np.asarray(kl), "kl_excess": np.asarray(kl - floor)}
