"""Noise schedules: the levels of the training timesteps, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taba_core.diffusion.level import Level
from taba_core.diffusion.spacing import shifted
from taba_core.errors import UsageError, unknown_name


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The levels x_t = alpha_t x_0 + sigma_t eps of the training timesteps t = 0..N-1.

    Of a variance-preserving process (`of_alpha_bar` and the named schedules) alpha_t^2 is
    alpha_bar_t = prod_{s <= t} (1 - beta_s) and sigma_t^2 = 1 - alpha_bar_t; other paths between image and noise give
    both tables.

    Attributes:
      signal_power: (N,), float64, alpha_t^2, falling, never below 0. The last may be 0 (zero terminal SNR).
      noise_power: (N,), float64, sigma_t^2, rising, above 0.
      timestep_scale: the network is given timestep * timestep_scale (1 for most models; 1000 / 4000 for the
        ADM models trained on 4000 steps with rescaled timesteps).
      times: (N,), float64, rising: what the network is given, where that is not timestep * timestep_scale.
      shift: q of `flow`; None of other schedules.

    Raises:
      UsageError: tables that are no such levels, or a timestep_scale that is not positive.
    """

    signal_power: NDArray[np.float64]
    noise_power: NDArray[np.float64]
    timestep_scale: float = 1.0
    times: NDArray[np.float64] | None = None
    shift: float | None = None

    def __post_init__(self) -> None:
        if not self.timestep_scale > 0:
            raise UsageError(
                f"timestep_scale={self.timestep_scale} must be positive; use 1 unless timesteps are rescaled."
            )
        times = self.times
        if times is None:
            times = np.arange(len(self.signal_power), dtype=np.float64) * self.timestep_scale
        for name, table in (
            ("signal_power", self.signal_power),
            ("noise_power", self.noise_power),
            ("times", times),
        ):
            kept = np.array(table, dtype=np.float64)
            kept.setflags(write=False)
            object.__setattr__(self, name, kept)
        if not self._are_levels():
            raise UsageError(
                f"signal_power, noise_power and times of shapes {self.signal_power.shape}, "
                f"{self.noise_power.shape} and {np.shape(times)} are no noise schedule: they must be one-dimensional "
                "and equally long, the signal falling to 0 or above, the noise rising from above 0, the times rising."
            )

    def _are_levels(self) -> bool:
        signal, noise, times = self.signal_power, self.noise_power, np.asarray(self.times)
        if signal.ndim != 1 or not len(signal) or not signal.shape == noise.shape == times.shape:
            return False
        falls, rises = np.all(np.diff(signal) < 0), np.all(np.diff(noise) > 0)
        return bool(falls and rises and np.all(np.diff(times) > 0) and signal[-1] >= 0 and noise[0] > 0)

    @property
    def num_train_timesteps(self) -> int:
        """N."""
        return len(self.signal_power)

    @cached_property
    def alpha_bar(self) -> NDArray[np.float64]:
        """(N,), share of the signal in the power of each level; of a VP schedule alpha_t^2 itself, to the bit."""
        table: NDArray[np.float64] = self.signal_power / (self.signal_power + self.noise_power)
        table.setflags(write=False)
        return table

    @cached_property
    def is_flow(self) -> bool:
        """Whether the path is the straight line x = (1 - s) x_0 + s eps, the network's time in proportion to s."""
        s, times = np.sqrt(self.noise_power), np.asarray(self.times)
        in_proportion = np.allclose(times, s * self.duration, rtol=0, atol=1e-9 * self.duration)
        return bool(self._is_straight() and in_proportion)

    def _is_straight(self) -> bool:
        return np.allclose(np.sqrt(self.signal_power) + np.sqrt(self.noise_power), 1, rtol=0, atol=1e-9)

    @property
    def duration(self) -> float:
        """The time that the whole process takes, N * timestep_scale."""
        return self.num_train_timesteps * self.timestep_scale

    def level(self, timestep: int) -> Level:
        """The level of a training timestep, 0..N-1, with its time."""
        assert self.times is not None
        return Level(
            float(self.signal_power[timestep]), float(self.noise_power[timestep]), float(self.times[timestep])
        )

    def level_at(self, time: float) -> Level:
        """The level of a network's time: that of the training timestep nearest to it, asked at `time` itself.

        A flow is continuous: the level of time N s is that of s, 0 to 1.

        Raises:
          UsageError: a time more than half a timestep outside the schedule.
        """
        assert self.times is not None
        if self.is_flow and 0 <= time <= self.duration:
            return Level.flow(time / self.duration, time)
        times, margin = self.times, 0.5 * self.timestep_scale
        if not times[0] - margin <= time <= times[-1] + margin:
            raise UsageError(
                f"t={time:g} is no time of a noise schedule whose times go from {times[0]:g} to {times[-1]:g}."
            )
        return self.level(int(np.abs(times - time).argmin())).at(time)

    def level_of_noise(self, sigma: float) -> Level:
        """The level between training timesteps that holds noise of standard deviation sigma; it has no time.

        Raises:
          UsageError: a schedule that is neither variance-preserving nor a straight flow, whose path is not known.
        """
        if np.allclose(self.signal_power + self.noise_power, 1, rtol=0, atol=1e-9):
            return Level.vp(1 - sigma**2)
        if self._is_straight():
            return Level.flow(sigma)
        raise UsageError(
            f"sigma={sigma:g}: levels between timesteps are known of schedules with alpha^2 + sigma^2 = 1 or "
            "alpha + sigma = 1; use a level of the grid."
        )

    def zero_terminal_snr(self) -> NoiseSchedule:
        """The schedule with alpha moved and scaled so that the last one is 0 and the first one stays.

        alpha_t <- (alpha_t - alpha_{N-1}) alpha_0 / (alpha_0 - alpha_{N-1}), sigma_t^2 = 1 - alpha_t^2    (Lin et al.
        2024, Alg. 1; diffusers `rescale_betas_zero_snr`). Of a VP schedule.
        """
        alpha = np.sqrt(self.alpha_bar)
        alpha = (alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))
        return self.of_alpha_bar(alpha**2, self.timestep_scale)

    @classmethod
    def of_alpha_bar(cls, alpha_bar: ArrayLike, timestep_scale: float = 1.0) -> NoiseSchedule:
        """The variance-preserving schedule of a table of alpha_bar, (N,), falling, in [0, 1).

        Raises:
          UsageError: no such table.
        """
        table = np.asarray(alpha_bar, dtype=np.float64)
        if (
            table.ndim != 1
            or not len(table)
            or not (table[-1] >= 0 and table[0] < 1 and np.all(np.diff(table) < 0))
        ):
            raise UsageError(
                f"alpha_bar of shape {table.shape} is no noise schedule: it must be one-dimensional, "
                "strictly falling, and lie in [0, 1). Check the betas; each must lie in (0, 1), the last may be 1."
            )
        return cls(table, 1 - table, timestep_scale)

    @classmethod
    def from_betas(cls, betas: ArrayLike, *, timestep_scale: float = 1.0) -> NoiseSchedule:
        """Schedule of the given betas, (N,), each in (0, 1); the last may be 1."""
        alpha_bar: NDArray[np.float64] = np.cumprod(
            1.0 - np.asarray(betas, dtype=np.float64), dtype=np.float64
        )
        return cls.of_alpha_bar(alpha_bar, timestep_scale)

    @classmethod
    def linear(
        cls, N: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02, *, timestep_scale: float = 1.0
    ) -> NoiseSchedule:
        """beta_t linear in t (Ho et al. 2020, Sec. 4; DiT, ADM-256).

        >>> NoiseSchedule.linear().alpha_bar[[0, 999]].round(6).tolist()
        [0.9999, 4e-05]
        """
        return cls.from_betas(np.linspace(beta_start, beta_end, N), timestep_scale=timestep_scale)

    @classmethod
    def scaled_linear(
        cls,
        N: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        *,
        timestep_scale: float = 1.0,
    ) -> NoiseSchedule:
        """sqrt(beta_t) linear in t (Rombach et al. 2022; the default values are Stable Diffusion's)."""
        roots = np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), N)
        return cls.from_betas(roots**2, timestep_scale=timestep_scale)

    @classmethod
    def cosine(cls, N: int = 1000, max_beta: float = 0.999, *, timestep_scale: float = 1.0) -> NoiseSchedule:
        """beta_t = min(1 - f((t+1)/N) / f(t/N), max_beta), f(u) = cos^2(pi/2 (u + .008) / 1.008).

        Nichol & Dhariwal 2021, Eq. 17; ADM-32/64 (N = 4000) and DeepFloyd IF ("squaredcos_cap_v2").
        """
        f = np.cos((np.arange(N + 1) / N + 0.008) / 1.008 * (math.pi / 2)) ** 2
        return cls.from_betas(np.minimum(1.0 - f[1:] / f[:-1], max_beta), timestep_scale=timestep_scale)

    @classmethod
    def flow(cls, N: int = 1000, shift: float = 1.0, *, timestep_scale: float = 1.0) -> NoiseSchedule:
        """The straight line between image and noise, x = (1 - s) x_0 + s eps, at N levels; the last is pure noise.

        s_t = shift u / (1 + (shift - 1) u) with u = (t + 1) / N (Esser et al. 2024, Eq. 23); the shift of Stable
        Diffusion 3 is 3. The network's time is N s_t * timestep_scale.
        """
        s = shifted(np.arange(1, N + 1) / N, shift)
        return cls((1.0 - s) ** 2, s**2, timestep_scale, N * s * timestep_scale, shift)

    @classmethod
    def named(
        cls, kind: str, *, zero_terminal_snr: bool = False, timestep_scale: float = 1.0, **fields: Any
    ) -> NoiseSchedule:
        """Schedule of a model card: kind is linear, scaled-linear, cosine or flow; fields as of that constructor.

        Args:
          zero_terminal_snr: whether the schedule was rescaled to end in pure noise, see `zero_terminal_snr`.

        Raises:
          UsageError: no such kind, or a field the kind does not have.
        """
        kinds: dict[str, Callable[..., NoiseSchedule]] = {
            "linear": cls.linear,
            "scaled-linear": cls.scaled_linear,
            "cosine": cls.cosine,
            "flow": cls.flow,
        }
        if kind not in kinds:
            raise unknown_name("noise schedule", kind, kinds)
        try:
            schedule = kinds[kind](timestep_scale=timestep_scale, **fields)
        except TypeError as error:
            raise UsageError(f"noise schedule '{kind}': {error}.") from error
        return schedule.zero_terminal_snr() if zero_terminal_snr else schedule
