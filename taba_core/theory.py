"""Closed forms for Gaussian data: what DDIM sampling, inversion and forward replacement do to one mode.

For data whose modes are independent, x_0 ~ N(0, lam), the optimal prediction at a level (alpha, sigma) is linear,
eps(x) = k x with k = sigma / (alpha^2 lam + sigma^2), so every step multiplies by a number and a latent is
Gaussian with a known standard deviation. Symbols: F sampling gain (noise to image), G inversion gain (image
to latent). All float64, no network, no samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taba_core.conventions import FirstTime, ForwardLevel, HeldQuantity, Levels, NetworkTime
from taba_core.diffusion.ends import Held
from taba_core.diffusion.grid import CLEAN, TimestepGrid, Transition
from taba_core.diffusion.level import Level
from taba_core.errors import UsageError

Modes = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class GaussianLatent:
    """The latent of one image mode: alpha G F noise + sigma G z, with z independent of the noise.

    Attributes:
      sampling_gain: F, per mode.
      inversion_gain: G of the steps after the start, per mode.
      start: level (alpha, sigma) the clean image was noised to; that of the clean image without forward replacement.
      reconstruction_gain: sampling gain on the inversion's own grid where that is not the grid the image was
        sampled on; None = F.
    """

    sampling_gain: Modes
    inversion_gain: Modes
    start: Level = CLEAN
    reconstruction_gain: Modes | None = None

    @property
    def signal_gain(self) -> Modes:
        """Latent per unit of the original noise, alpha G F; 1 for an exact inversion."""
        return self.start.alpha * self.inversion_gain * self.sampling_gain

    @property
    def injected_std(self) -> Modes:
        """Standard deviation of the part of the latent that forward replacement drew, sigma G."""
        return self.start.sigma * self.inversion_gain

    @property
    def std(self) -> Modes:
        """Standard deviation of the latent; 1 for noise."""
        return np.hypot(self.signal_gain, self.injected_std)

    @property
    def noise_error_std(self) -> Modes:
        """Standard deviation of noise - latent."""
        return np.hypot(1 - self.signal_gain, self.injected_std)

    @property
    def expected_absolute_error(self) -> Modes:
        """E |noise - latent| = sqrt(2 / pi) std(noise - latent)."""
        return math.sqrt(2 / math.pi) * self.noise_error_std

    @property
    def reconstruction_rmse(self) -> Modes:
        """Root mean squared difference of the image and the image sampled back from the latent.

        F noise - R latent, R the reconstruction gain: hypot(F - R alpha G F, R sigma G).
        """
        F, R = self.sampling_gain, self.reconstruction_gain
        if R is None:
            return F * self.noise_error_std
        return np.hypot(F - R * self.signal_gain, R * self.injected_std)


@dataclass(frozen=True, eq=False)
class GaussianModes:
    """Independent Gaussian modes under a sampler's grid.

    Attributes:
      variance: lam > 0 of each mode, any shape; every result has this shape.
      grid: the levels.

    Raises:
      UsageError: variances that are no real numbers, or one that is not positive.

    >>> modes = GaussianModes(np.array([1e-4, 1e-2, 1.0]), TimestepGrid.build(NoiseSchedule.linear(), 50))
    >>> modes.latent().std.round(3).tolist()  # DDIM inversion: plain directions hold a ninth of the noise
    [0.113, 0.62, 0.998]
    >>> modes.latent(2, "matched").std.round(3).tolist()  # two steps replaced by forward diffusion
    [1.038, 0.951, 0.997]
    """

    variance: Modes
    grid: TimestepGrid

    def __post_init__(self) -> None:
        variance = _real_numbers("GaussianModes", "variance", self.variance)
        if not np.all(variance > 0):
            raise UsageError(
                f"smallest mode variance {variance.min():g}: every mode needs a positive variance."
            )
        variance.setflags(write=False)
        object.__setattr__(self, "variance", variance)

    def eps_gain(self, level: Level) -> Modes:
        """k = sigma / (alpha^2 lam + sigma^2): optimal prediction of the noise per unit of the state at a level."""
        return level.sigma / self._power(level)

    @property
    def held(self) -> Held:
        """What moves carry: the noise, or on a flow the velocity eps - x_0, which its networks predict."""
        return Held.VELOCITY if self.grid.schedule.is_flow else Held.NOISE

    def prediction_gain(self, level: Level) -> Modes:
        """Optimal prediction of what is held, per unit of the state at a level.

        k of the noise; on a flow k - alpha lam / (alpha^2 lam + sigma^2) of the velocity.
        """
        k = self.eps_gain(level)
        if self.held is Held.NOISE:
            return k
        return k - level.alpha * self.variance / self._power(level)

    def step_gains(self, moves: list[Transition]) -> Modes:
        """Factor P + Q k(network) of each move, (len(moves), *shape of variance), k the gain of what is held."""
        if not moves:
            return np.ones((0, *self.variance.shape))
        return np.stack([p + q * self.prediction_gain(move.network) for p, q, move in self._with_pq(moves)])

    def sampling_gain(self) -> Modes:
        """F: image per unit of noise, prod of the T sampling steps."""
        return _product(self.step_gains(self.grid.downward()))

    def inversion_gain(
        self,
        first_step: int = 0,
        *,
        network_time: NetworkTime = "target",
        levels: Levels = "exact",
        first_time: FirstTime = "one",
        held: HeldQuantity = "auto",
    ) -> Modes:
        """G of DDIM inversion from step first_step + 1 on; conventions as `TimestepGrid.upward` and `Conventions`."""
        moves = self.grid.upward(first_step, network_time=network_time, levels=levels, first_time=first_time)
        if held in ("noise", "noise-vp") and self.held is Held.VELOCITY:
            return _product(self._noise_gains(moves, scaled=held == "noise-vp"))
        return _product(self.step_gains(moves))

    def exact_inversion_gain(self, first_step: int = 0) -> Modes:
        """G of the exact inverse of the sampling steps l > first_step, prod 1 / f_l."""
        steps = self.step_gains(self.grid.downward()[::-1])
        return 1 / _product(steps[first_step:])

    def fixed_point_gain(self, num_refinements: int, first_step: int = 0) -> Modes:
        """G of fixed-point inversion: z <- P + Q k z, num_refinements + 1 times from z = 1, in each step.

        0 refinements is DDIM inversion at target times; the limit is the exact inverse.
        """
        total = np.ones(self.variance.shape)
        for p, q, move in self._with_pq(self.grid.upward(first_step)):
            z = np.ones(self.variance.shape)
            for _ in range(num_refinements + 1):
                z = p + q * self.prediction_gain(move.network) * z
            total = total * z
        return total

    def latent(
        self,
        forward_steps: int = 0,
        forward_level: ForwardLevel = "exact",
        *,
        network_time: NetworkTime = "target",
        levels: Levels = "exact",
        first_time: FirstTime = "one",
        held: HeldQuantity = "auto",
        image_grid: TimestepGrid | None = None,
    ) -> GaussianLatent:
        """Latent of DDIM inversion with the first K = `forward_steps` steps replaced by forward diffusion.

        `image_grid` is the grid the image was sampled on, where that is not the inversion's own.
        """
        gain = self.inversion_gain(
            forward_steps, network_time=network_time, levels=levels, first_time=first_time, held=held
        )
        start = self.grid.replacement_level(forward_steps, forward_level, levels, network_time)
        return self.latent_with(gain, start, image_grid=image_grid)

    def latent_with(
        self, inversion_gain: Modes, start: Level = CLEAN, *, image_grid: TimestepGrid | None = None
    ) -> GaussianLatent:
        """Latent of a method with the given G, started from the level `start`."""
        if image_grid is None:
            return GaussianLatent(self.sampling_gain(), inversion_gain, start)
        sampled = GaussianModes(self.variance, image_grid).sampling_gain()
        return GaussianLatent(sampled, inversion_gain, start, self.sampling_gain())

    def marginal_step_ratio(self) -> Modes:
        """rho(l) = std(eps_hat_l) / std(eps_l) of steps l = 1..T on exact marginals, (T, *shape).

        sqrt((alpha_{l-1}^2 lam + sigma_{l-1}^2) / (alpha_l^2 lam + sigma_l^2)), the law of
        infinitely fine sampling; target time.
        """
        return np.stack([np.sqrt(self._power(m.stop) / self._power(m.start)) for m in self._ascending()])

    def sampled_step_ratio(self) -> Modes:
        """std(eps_hat_l) / std(eps_l) of steps l = 1..T on the states that DDIM itself visits, (T, *shape).

        The state shrinks by the step's own gain f_l and the network is the same, so the ratio is f_l; target
        time. This is what a measurement on cached sampling states sees.
        """
        return self.step_gains(self._ascending())

    def sampled_eps_std(self) -> Modes:
        """std(eps_l) of the predictions DDIM sampling makes at levels l = 1..T, (T, *shape).

        The state's gain from x_T down to level l, prod f_m over m > l, times k_l: the weights with which the
        step ratios of many modes pool.
        """
        ratio = self.sampled_step_ratio()
        state = np.cumprod(np.concatenate([np.ones((1, *ratio.shape[1:])), ratio[:0:-1]]), axis=0)[::-1]
        return cast(Modes, state * np.stack([self.eps_gain(level) for level in self.grid.upper_levels]))

    def _ascending(self) -> list[Transition]:
        return self.grid.downward()[::-1]

    def _with_pq(self, moves: list[Transition]) -> list[tuple[float, float, Transition]]:
        """(P, Q) of x_to = P x_from + Q f, and the move."""
        return [(*self.held.coefficients(move.start, move.stop), move) for move in moves]

    def _noise_gains(self, moves: list[Transition], *, scaled: bool) -> Modes:
        """Factor P + Q k(network) of each move where the noise is carried, read at the network's own level.

        Scaled, the network is given the state times c_network / c_start, c = sqrt(alpha^2 + sigma^2).
        """
        gains = [np.ones((0, *self.variance.shape))]
        for move in moves:
            P, Q = Held.NOISE.coefficients(move.start, move.stop)
            given = move.network.size / move.start.size if scaled else 1.0
            gains.append((P + Q * self.eps_gain(move.network) * given)[None])
        return np.concatenate(gains)

    def _power(self, level: Level) -> Modes:
        """Variance of the state at a level."""
        # Added in this order the sum of a VP level is a lam + 1 - a to the bit.
        total = level.signal_power + level.noise_power
        return level.signal_power * self.variance + total - level.signal_power


def power_law_spectrum(size: int, beta: float, total_variance: float) -> Modes:
    """Mode variances of a stationary square field, lam(f) ~ |f|^-beta, (size, size) in FFT order.

    Scaled so that a pixel has variance `total_variance` (the mean of lam); the mean mode (f = 0) is given the
    variance of the lowest other frequency.

    >>> power_law_spectrum(8, 2.0, total_variance=0.25).mean().round(6)
    np.float64(0.25)
    """
    f = np.fft.fftfreq(size)
    radius = np.hypot(f[:, None], f[None, :])
    radius[0, 0] = 1 / size
    lam = radius**-beta
    return cast(Modes, lam * (total_variance / lam.mean()))


def lag_correlation(mode_variance: ArrayLike, lag: int = 1) -> float:
    """Correlation of horizontally neighbouring pixels of a stationary field with these mode variances.

    sum lam(f) cos(2 pi f_x lag) / sum lam(f), signed.

    Args:
      mode_variance: (H, W) in FFT order, the last axis horizontal.

    Raises:
      UsageError: other than (H, W) finite real numbers that are not negative, or all zero.

    >>> round(lag_correlation(np.ones((8, 8))), 6)  # white noise
    0.0
    """
    spectrum = _real_numbers("lag_correlation", "mode_variance", mode_variance)
    if spectrum.ndim != 2 or not np.all(spectrum >= 0) or not 0 < spectrum.sum() < np.inf:
        raise UsageError(
            f"lag_correlation: mode_variance has shape {spectrum.shape} and a sum of {spectrum.sum():g}; it takes the "
            "variances of the modes of one field, (height, width), finite, not negative and not all zero. Select one "
            "field first."
        )
    phase = np.cos(2 * math.pi * np.fft.fftfreq(spectrum.shape[-1]) * lag)
    return float((spectrum * phase).sum() / spectrum.sum())


def _real_numbers(function: str, argument: str, values: object) -> Modes:
    """A float64 copy of an array of real numbers.

    Raises:
      UsageError: something else, named with the function and the argument.
    """
    array = None if hasattr(values, "data_vars") else np.asarray(values)
    if array is None or array.dtype.kind not in "fiu" or not array.size:
        held = (
            type(values).__name__
            if array is None
            else f"an array of shape {array.shape} and type {array.dtype}"
        )
        raise UsageError(
            f"{function}: {argument} is {held}; it takes an array of real numbers, with at least one entry, such as "
            f"numpy.asarray({argument}, dtype=float)."
        )
    return array.astype(np.float64)


def _product(gains: Modes) -> Modes:
    return cast(Modes, np.prod(gains, axis=0))
