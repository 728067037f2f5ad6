"""Closed-form predictions of latents beside the measurements, for the models that allow them.

The data of `gaussian` are Gaussian. Those of `photo-mixture` are a mixture: there the forms hold each image to the
one component it belongs to, which is exact once the state tells the component (all but the noisiest levels).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from taba_core.conventions import ForwardLevel
from taba_core.stats.correlation import LAGS
from taba_core.theory import GaussianLatent, GaussianModes
from workflows.configuration.context import Context

# A mode of almost no variance: what a plain area is made of.
FLAT_VARIANCE = 1e-4
_MEAN_ABSOLUTE = float(np.sqrt(2 / np.pi))  # E |z| of a standard normal


class Spectrum(NamedTuple):
    """What a model's images are made of: variances of modes, (m,), and how much of every component has them.

    - weight: (k, m), share of a component's modes; rows sum to 1.
    - share: (k,), share of the images that a component makes.
    """

    share: NDArray[np.float64]
    weight: NDArray[np.float64]
    variance: NDArray[np.float64]
    label: str

    def mean(self, of_modes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean over the modes of each component, (m,) to (k,)."""
        return np.asarray(self.weight @ of_modes)


class LatentTheory(NamedTuple):
    """Closed-form values of one latent; names are those of the measured columns."""

    std: float
    kl_global: float
    mae: float
    error: float


class FlatCrossing(NamedTuple):
    """Where one flat mode comes nearer to its latent than to its noise, and the share of the noise it keeps."""

    progress: float
    kept: float


def plain_ddim(context: Context) -> bool:
    """Whether the closed forms of one mode apply: DDIM at target times on exact levels, no x_0 rule, no guidance,
    steps that carry what the network predicts."""
    c = context.conventions
    rules = (c.network_time, c.levels, c.sampling_x0_rule, c.inversion_x0_rule, c.held)
    generated = context.settings.images is None  # real images have no distribution that is known
    if not context.guidance.off:
        return False  # a guided prediction is that of no distribution
    return generated and context.method == "ddim" and rules == ("target", "exact", "none", "none", "auto")


def has_flat_modes(context: Context) -> bool:
    """Whether a plain area is made of modes of little variance, as in pixels; in a latent space it is not."""
    return plain_ddim(context) and context.card.embedded


def flat_mode(context: Context, num_inference_steps: int, variance: float = FLAT_VARIANCE) -> GaussianModes:
    """One mode of that variance on the model's grid."""
    return GaussianModes(np.array(variance), context.grid(num_inference_steps))


def flat_mode_crossing(context: Context, num_inference_steps: int) -> FlatCrossing | None:
    """Crossing of a mode of variance FLAT_VARIANCE; None where its latent has no closed form.

    With state gain g_l and latent gain s of the same noise, |g - s| < |g - 1| once g < (1 + s)/2.
    """
    if not has_flat_modes(context):
        return None
    mode = flat_mode(context, num_inference_steps)
    kept = float(mode.latent().signal_gain)
    # State gains at levels T, T-1, ..., 0.
    state = np.cumprod(np.concatenate([[1.0], mode.sampled_step_ratio()[::-1]]))
    return FlatCrossing(float(np.argmax(state < (1 + kept) / 2)) / num_inference_steps, kept)


def flat_mode_latent(
    context: Context,
    num_inference_steps: int,
    forward_steps: int = 0,
    forward_level: ForwardLevel = "exact",
    image_steps: int | None = None,
) -> GaussianLatent | None:
    """Latent of a mode of variance FLAT_VARIANCE; None where plain areas are not made of such modes."""
    if not has_flat_modes(context):
        return None
    mode = flat_mode(context, num_inference_steps)
    grid = None if image_steps is None else context.grid(image_steps)
    return mode.latent(forward_steps, forward_level, image_grid=grid)


def flat_mode_std(
    context: Context, num_inference_steps: int, forward_steps: int, forward_level: ForwardLevel
) -> float | None:
    """Standard deviation of the latent of that mode; 1 for noise."""
    latent = flat_mode_latent(context, num_inference_steps, forward_steps, forward_level)
    return None if latent is None else float(latent.std)


def spectrum(context: Context) -> Spectrum | None:
    """The modes behind a model's images; None for models whose data have no closed form."""
    if context.settings.images is not None:
        return None
    if context.name == "gaussian":
        from taba_core.models.gaussian import mode_variance

        variance = mode_variance(context.model_spec.options).ravel()
        return Spectrum(np.ones(1), np.full((1, variance.size), 1 / variance.size), variance, "all modes")
    if context.name == "photo-mixture" and plain_ddim(context):
        from taba_core.models.options import validate_options

        return _component_spectrum(validate_options("photo-mixture", context.model_spec.options))
    return None


@functools.cache
def _component_spectrum(options: object) -> Spectrum:
    from taba_core.models.mixture_fit import cached_mixture

    mixture = cached_mixture(options)  # type: ignore[arg-type]
    share = np.exp(mixture.log_weight)
    grid, weight = binned(mixture.mode_variance())
    return Spectrum(share / share.sum(), weight, grid, "all modes of the components")


def binned(
    variance: NDArray[np.float64], num_bins: int = 512
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Modes of every component, (k, d), as weights (k, num_bins) on a common grid of variances, even in log.

    A mode is split between its two neighbours, so that a smooth function of log variance is averaged to second
    order in the spacing (3 % of a variance over six decades). A mixture has 184,320 modes, too many at T = 1000.
    """
    log = np.log(variance)
    low, high = float(log.min()), float(log.max())
    grid = np.linspace(low, high, num_bins) if high > low else np.full(num_bins, low)
    place = (log - low) / ((high - low) or 1.0) * (num_bins - 1)
    left = np.minimum(place.astype(np.int64), num_bins - 2)
    weight = np.zeros((len(variance), num_bins))
    for row, index, part in zip(weight, left, place - left, strict=True):
        np.add.at(row, index, 1 - part)
        np.add.at(row, index + 1, part)
    return np.exp(grid), weight / variance.shape[1]


def latent_of(
    context: Context,
    num_inference_steps: int,
    forward_steps: int = 0,
    forward_level: ForwardLevel = "exact",
    image_steps: int | None = None,
) -> tuple[Spectrum, GaussianLatent] | None:
    """The latent of every mode under the context's conventions; None where it has no closed form.

    `image_steps` is the T the images were sampled with, where that is not the inversion's.
    """
    modes = spectrum(context)
    latent = None
    if modes is not None:
        latent = _latent(
            context, modes.variance, num_inference_steps, forward_steps, forward_level, image_steps
        )
    return None if modes is None or latent is None else (modes, latent)


def _latent(
    context: Context,
    variance: NDArray[np.float64],
    num_inference_steps: int,
    forward_steps: int,
    forward_level: ForwardLevel,
    image_steps: int | None,
) -> GaussianLatent | None:
    rules = context.conventions
    if context.method != "ddim" or {rules.sampling_x0_rule, rules.inversion_x0_rule} != {"none"}:
        return None
    grid = None if image_steps is None else context.grid(image_steps)
    return GaussianModes(variance, context.grid(num_inference_steps)).latent(
        forward_steps,
        forward_level,
        network_time=rules.network_time,
        levels=rules.levels,
        first_time=rules.first_time,
        held=rules.held,
        image_grid=grid,
    )


def latent_theory(
    context: Context,
    num_inference_steps: int,
    forward_steps: int = 0,
    forward_level: ForwardLevel = "exact",
    image_steps: int | None = None,
) -> LatentTheory | None:
    """Standard deviation, global KL, reconstruction error and distance to the noise of a latent (Tables 3, 4, 8, 9).

    Pooled over all entries. Entries of one component are taken to share one variance, the mean over its modes. The
    reconstruction error of a mixture is NaN: the few images that come back in another component make most of it.
    """
    found = latent_of(context, num_inference_steps, forward_steps, forward_level, image_steps)
    if found is None:
        return None
    modes, latent = found
    variance = float(modes.share @ modes.mean(latent.std**2))

    def mean_absolute(std: NDArray[np.float64]) -> float:
        return _MEAN_ABSOLUTE * float(modes.share @ np.sqrt(modes.mean(std**2)))

    return LatentTheory(
        std=variance**0.5,
        # KL(N(0, 1) || N(0, v)), the direction of the tables.
        kl_global=0.5 * (np.log(variance) + 1 / variance - 1),
        mae=mean_absolute(latent.reconstruction_rmse) if len(modes.share) == 1 else float("nan"),
        error=mean_absolute(latent.noise_error_std),
    )


def lag_theory(context: Context, num_inference_steps: int, image_steps: int | None = None) -> float | None:
    """Lag-1 correlation of the latent's neighbours, as `LagCorrelation` measures it (Table 2, bias-free).

    Per lag, sum over modes but the mean of s^2(f) cos(2 pi f.lag) / sum of s^2(f), plus the 1/(HW - 1) that the
    measure adds. Exact up to the ratio of means for the mean of ratios, and to the pairs lost at the border.
    """
    if context.name != "gaussian" or context.model_spec.options.get("basis") != "fourier":
        return None
    from taba_core.models.gaussian import mode_variance

    variance = mode_variance(context.model_spec.options)
    latent = _latent(context, variance, num_inference_steps, 0, "exact", image_steps)
    if latent is None:
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
