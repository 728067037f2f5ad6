"""Closed-form predictions beside the measurements, for the models that allow them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from taba_core.conventions import ForwardLevel
from taba_core.stats.correlation import LAGS
from taba_core.theory import GaussianLatent, GaussianModes
from workflows.context import Context

# A mode of almost no variance: what a plain area is made of.
FLAT_VARIANCE = 1e-4


class StepRatio(NamedTuple):
    """rho(l) for l = 1..T, and what it is the ratio of."""

    values: NDArray[np.float64]
    label: str


class LatentTheory(NamedTuple):
    """Closed-form values of one latent; names are those of the measured columns."""

    std: float
    kl_global: float
    mae: float


class FlatCrossing(NamedTuple):
    """Where one flat mode comes nearer to its latent than to its noise, and the share of the noise it keeps."""

    progress: float
    kept: float


def _plain_ddim(context: Context) -> bool:
    """Whether the closed forms of one mode apply: DDIM at target times on exact levels, no x_0 rule."""
    c = context.conventions
    rules = (c.network_time, c.levels, c.sampling_x0_rule, c.inversion_x0_rule)
    return context.method == "ddim" and rules == ("target", "exact", "none", "none")


def flat_mode_crossing(context: Context, num_inference_steps: int) -> FlatCrossing | None:
    """Crossing of a mode of variance FLAT_VARIANCE; None where its latent has no closed form.

    With state gain g_l and latent gain s of the same noise, |g - s| < |g - 1| once g < (1 + s)/2.
    """
    if not (_plain_ddim(context) and context.card.embedded):
        return None  # in a latent space a plain area is no mode of little variance
    mode = GaussianModes(np.array(FLAT_VARIANCE), context.grid(num_inference_steps))
    kept = float(mode.latent().signal_gain)
    # State gains at levels T, T-1, ..., 0.
    state = np.cumprod(np.concatenate([[1.0], mode.sampled_step_ratio()[::-1]]))
    return FlatCrossing(float(np.argmax(state < (1 + kept) / 2)) / num_inference_steps, kept)


def flat_mode_std(
    context: Context, num_inference_steps: int, forward_steps: int, forward_level: ForwardLevel
) -> float | None:
    """Standard deviation of the latent of a mode of variance FLAT_VARIANCE; 1 for noise. None as above."""
    if not (_plain_ddim(context) and context.card.embedded):
        return None
    mode = GaussianModes(np.array(FLAT_VARIANCE), context.grid(num_inference_steps))
    return float(mode.latent(forward_steps, forward_level).std)


def gaussian_modes(context: Context, num_inference_steps: int) -> GaussianModes | None:
    """The modes of the `gaussian` model; None for models whose data are not Gaussian."""
    if context.name != "gaussian":
        return None
    from taba_core.models.gaussian import mode_variance

    return GaussianModes(mode_variance(context.model_spec.options), context.grid(num_inference_steps))


def step_ratio(context: Context, num_inference_steps: int) -> StepRatio | None:
    """Spread of inversion predictions over sampling predictions, per step (Figure 4b).

    gaussian: pooled over modes, sqrt(sum var(eps_hat) / sum var(eps)), on the states DDIM itself visits. Other models
    with exact levels and target time: the law of one flat mode, which is what a plain area consists of.
    """
    if not _plain_ddim(context):
        return None
    grid = context.grid(num_inference_steps)
    modes = gaussian_modes(context, num_inference_steps)
    if modes is None:
        if not context.card.embedded:
            return None
        flat = GaussianModes(np.array(FLAT_VARIANCE), grid)
        return StepRatio(flat.sampled_step_ratio(), f"flat mode of variance {FLAT_VARIANCE:g}, closed form")
    ratio = modes.sampled_step_ratio()
    # Variance of eps at level l: (state gain from x_T down to level l times k_l)^2.
    state = np.cumprod(np.concatenate([np.ones((1, *ratio.shape[1:])), ratio[:0:-1]]), axis=0)[::-1]
    k = np.stack([modes.eps_gain(a) for a in grid.alpha_bar[1:]])
    weight = np.square(state * k)
    axes = tuple(range(1, ratio.ndim))
    pooled = np.sqrt((weight * np.square(ratio)).sum(axis=axes) / weight.sum(axis=axes))
    return StepRatio(pooled, "all modes, closed form")


def gaussian_latent(
    context: Context, num_inference_steps: int, forward_steps: int = 0, forward_level: ForwardLevel = "exact"
) -> GaussianLatent | None:
    """The latent of the `gaussian` model under the context's conventions; None where it has no closed form."""
    modes = gaussian_modes(context, num_inference_steps)
    rules = context.conventions
    if (
        modes is None
        or context.method != "ddim"
        or {rules.sampling_x0_rule, rules.inversion_x0_rule} != {"none"}
    ):
        return None
    return modes.latent(forward_steps, forward_level, network_time=rules.network_time, levels=rules.levels)


def latent_theory(
    context: Context, num_inference_steps: int, forward_steps: int, forward_level: ForwardLevel
) -> LatentTheory | None:
    """Standard deviation, global KL and mean absolute reconstruction error of a latent (Table 4)."""
    latent = gaussian_latent(context, num_inference_steps, forward_steps, forward_level)
    if latent is None:
        return None
    # Entries of a stationary field share one variance, the mean over modes.
    variance = float(np.mean(latent.std**2))
    error = float(np.sqrt(np.mean(latent.reconstruction_rmse**2)))
    # KL(N(0, 1) || N(0, v)), the direction of the tables.
    return LatentTheory(
        std=variance**0.5,
        kl_global=0.5 * (np.log(variance) + 1 / variance - 1),
        mae=float(np.sqrt(2 / np.pi)) * error,
    )


def region_theory(context: Context, num_inference_steps: int) -> dict[str, float] | None:
    """Absolute error and standard deviation over all entries (Table 3, column All)."""
    latent = gaussian_latent(context, num_inference_steps)
    if latent is None:
        return None
    return {
        "error": float(np.sqrt(2 / np.pi * np.mean(latent.noise_error_std**2))),
        "std": float(np.sqrt(np.mean(latent.std**2))),
    }


def lag_theory(context: Context, num_inference_steps: int) -> float | None:
    """Lag-1 correlation of the latent's neighbours, as `LagCorrelation` measures it (Table 2, bias-free).

    Per lag, sum over modes but the mean of s^2(f) cos(2 pi f.lag) / sum of s^2(f), plus the 1/(HW - 1) that the
    measure adds. Exact up to the ratio of means for the mean of ratios, and to the pairs lost at the border.
    """
    latent = gaussian_latent(context, num_inference_steps)
    if latent is None or context.model_spec.options.get("basis") != "fourier":
        return None
    power = latent.std**2
    power[0, 0] = 0.0
    height, width = power.shape
    phases = [
        np.cos(2 * np.pi * (dy * np.fft.fftfreq(height)[:, None] + dx * np.fft.fftfreq(width)[None, :]))
        for dy, dx in LAGS
    ]
    lags = [float((power * phase).sum() / power.sum()) for phase in phases]
    return float(np.mean(lags)) + 1 / (height * width - 1)
