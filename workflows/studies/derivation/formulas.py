"""Appendix E in steps: each formula with what it says, and its value for modes of given variance.

Symbols: σ_t = √(1 - ᾱ_t), P_t = √(ᾱ_t / ᾱ_{t-1}), Q_t = σ_t - P_t σ_{t-1}; λ the variance of a mode of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taba_core.diffusion.grid import TimestepGrid
from taba_core.theory import GaussianModes

Values = NDArray[np.float64]


@dataclass(frozen=True)
class StepTerms:
    """Everything the formulas are made of, for steps t = 1..T and any modes: arrays (T, *shape of the modes).

    - P, Q: coefficients of x_t = P x_{t-1} + Q eps; on a flow of x_t = x_{t-1} + Q v, P = 1.
    - k: optimal prediction per unit of state at level t, sigma_t / (abar_t lam + sigma_t^2); on a flow of the velocity.
    - ratio: f = (1 - Q k) / P, what sampling step t multiplies a mode by, and so std(eps_hat_t) / std(eps_t).
    - inverse: g = P + Q k, what DDIM inversion multiplies by; the exact inverse is 1 / f.
    - kept: g f = 1 - Q k (1 - f), share of the mode's amplitude that the step and its inversion keep.
    """

    P: Values
    Q: Values
    k: Values
    ratio: Values
    inverse: Values
    kept: Values


def step_terms(variance: ArrayLike, grid: TimestepGrid) -> StepTerms:
    """The terms of every step for modes of these variances (target label, exact levels).

    Raises:
      UsageError: a variance that is not positive.
    """
    modes = GaussianModes(np.asarray(variance, dtype=np.float64), grid)
    shape = (-1, *(1,) * modes.variance.ndim)
    pairs = zip(grid.lower_levels, grid.upper_levels, strict=True)
    P, Q = np.array([modes.held.coefficients(lower, upper) for lower, upper in pairs]).T.reshape(2, *shape)
    k = np.stack([modes.prediction_gain(level) for level in grid.upper_levels])
    ratio, inverse = (1 - Q * k) / P, P + Q * k
    return StepTerms(P, Q, k, ratio, inverse, inverse * ratio)


@dataclass(frozen=True)
class Formula:
    """One line of the derivation; `value` picks its number from the terms, None where it has none."""

    name: str
    formula: str
    says: str
    value: Callable[[StepTerms], Values] | None = None
    of_all_steps: bool = False


DERIVATION: Sequence[Formula] = (
    Formula(
        "Sampling (Eq. 6)",
        "x_{t-1} = √(ᾱ_{t-1}/ᾱ_t) (x_t - σ_t ε(x_t, t)) + σ_{t-1} ε(x_t, t)",
        "one DDIM step, σ_t = √(1 - ᾱ_t)",
    ),
    Formula(
        "P",
        "P_t = √(ᾱ_t / ᾱ_{t-1})",
        "what the state is scaled by",
        lambda terms: np.broadcast_to(terms.P, terms.k.shape),
    ),
    Formula(
        "Q",
        "Q_t = σ_t - P_t σ_{t-1}",
        "what the prediction is scaled by",
        lambda terms: np.broadcast_to(terms.Q, terms.k.shape),
    ),
    Formula(
        "Exact inverse (Eq. 7)", "x_t = P_t x_{t-1} + Q_t ε(x_t, t)", "solved for x_t: implicit, ε needs x_t"
    ),
    Formula(
        "DDIM inversion (Eq. 8, 3)",
        "x̂_t = P_t x_{t-1} + Q_t ε(x_{t-1}, t)",
        "assumes ε(x_{t-1}, t) ≈ ε(x_t, t)",
    ),
    Formula(
        "Error of the step",
        "x̂_t - x_t = Q_t (ε(x_{t-1}, t) - ε(x_t, t))",
        "all of it is the error of the assumption",
    ),
    Formula(
        "k",
        "ε(x, t) = k_t x,  k_t = σ_t / (ᾱ_t λ + σ_t^2)",
        "the best prediction for a mode of variance λ",
        lambda terms: terms.k,
    ),
    Formula(
        "ρ",
        "ρ_t = std ε(x_{t-1}, t) / std ε(x_t, t) = (1 - Q_t k_t) / P_t",
        "the step shrinks the state, so the inversion's prediction has less spread",
        lambda terms: terms.ratio,
    ),
    Formula(
        "1/ρ",
        "x_t / x_{t-1} = 1 / ρ_t",
        "what an exact inverse multiplies the mode by",
        lambda terms: 1 / terms.ratio,
    ),
    Formula(
        "g",
        "x̂_t / x_{t-1} = P_t + Q_t k_t",
        "what DDIM inversion multiplies it by",
        lambda terms: terms.inverse,
    ),
    Formula(
        "Deficit of the step",
        "x̂_t / x_t = 1 - Q_t k_t (1 - ρ_t)",
        "share of the amplitude one step keeps; λ → 0: ρ_t = σ_{t-1} / σ_t, far from 1 in the first steps only",
        lambda terms: terms.kept,
    ),
    Formula(
        "Latent",
        "std x̂_T / std x_T = Π_t (1 - Q_t k_t (1 - ρ_t)) < 1",
        "the deficits of all T steps",
        lambda terms: np.prod(terms.kept, axis=0),
        of_all_steps=True,
    ),
    Formula(
        "The fix (Eq. 5)",
        "x_K = √ᾱ_K x_0 + σ_K z,  z ~ N(0, 1)",
        "forward diffusion has the right spread at level K; the steps with ρ_t far from 1 are not taken",
    ),
)

# What reads otherwise where the path is x = (1 - s) x_0 + s ε and the network predicts v = ε - x_0.
_OF_FLOWS: Mapping[str, tuple[str, str]] = {
    "Sampling (Eq. 6)": ("x_{t-1} = x_t - (s_t - s_{t-1}) v(x_t, t)", "one Euler step, which is DDIM"),
    "P": ("P_t = 1", "what the state is scaled by"),
    "Q": ("Q_t = s_t - s_{t-1}", "what the prediction is scaled by"),
    "Exact inverse (Eq. 7)": ("x_t = x_{t-1} + Q_t v(x_t, t)", "solved for x_t: implicit, v needs x_t"),
    "DDIM inversion (Eq. 8, 3)": ("x̂_t = x_{t-1} + Q_t v(x_{t-1}, t)", "assumes v(x_{t-1}, t) ≈ v(x_t, t)"),
    "Error of the step": (
        "x̂_t - x_t = Q_t (v(x_{t-1}, t) - v(x_t, t))",
        "all of it is the error of the assumption",
    ),
    "k": (
        "v(x, t) = k_t x,  k_t = (s_t - (1 - s_t) λ) / ((1 - s_t)^2 λ + s_t^2)",
        "the best prediction for a mode of variance λ",
    ),
    "ρ": (
        "ρ_t = std v(x_{t-1}, t) / std v(x_t, t) = 1 - Q_t k_t",
        "the step shrinks the state, so the inversion's prediction has less spread",
    ),
    "Deficit of the step": (
        "x̂_t / x_t = 1 - Q_t k_t (1 - ρ_t)",
        "share of the amplitude one step keeps; λ → 0: ρ_t = s_{t-1} / s_t, far from 1 in the first steps only",
    ),
    "The fix (Eq. 5)": (
        "x_K = (1 - s_K) x_0 + s_K z,  z ~ N(0, 1)",
        "forward diffusion has the right spread at level K; the steps with ρ_t far from 1 are not taken",
    ),
}
FLOW_DERIVATION: Sequence[Formula] = tuple(
    replace(line, formula=_OF_FLOWS[line.name][0], says=_OF_FLOWS[line.name][1])
    if line.name in _OF_FLOWS
    else line
    for line in DERIVATION
)
