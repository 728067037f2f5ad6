"""The closed-form oracle: the exact denoiser of a Gaussian random field.

Modes of the field are independent, x_0 ~ N(0, lam) each, so at alpha-bar a the posterior mean of the noise is

    eps = sqrt(1-a) / (a lam + 1-a) * x_t        per mode,

and sampling, inversion and forward replacement are known gains per mode (taba_core.theory).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taba_core.diffusion.schedule import NoiseSchedule
from taba_core.errors import UsageError
from taba_core.models.basis import cosine_matrix
from taba_core.models.catalog import load_card
from taba_core.models.grids import noise_schedule
from taba_core.models.options import GaussianOptions, validate_options
from taba_core.theory import power_law_spectrum

# Axes: B samples, C = 3 independent channels, H = W = S rows and columns.


def mode_variance(options: GaussianOptions | Mapping[str, Any] | None = None) -> NDArray[np.float64]:
    """Variances lam of the modes of one channel, (S, S), float64; their mean is the variance of a pixel.

    lam(f) ~ |f|^-beta; the mean mode has the variance of the lowest other frequency. In FFT order for
    basis=fourier; index (k_y, k_x) with f = k / (2 S) for basis=dct.

    Raises:
      UsageError: an option that does not exist or cannot be.
    """
    if not isinstance(options, GaussianOptions):
        options = cast(GaussianOptions, validate_options("gaussian", options))
    if options.basis == "fourier":
        return power_law_spectrum(options.size, options.beta, options.variance)
    k = np.arange(options.size, dtype=np.float64)
    radius = np.hypot(k[:, None], k[None, :])
    radius[0, 0] = 1.0
    lam = radius**-options.beta
    return cast(NDArray[np.float64], lam * (options.variance / lam.mean()))


class GaussianField:
    """Denoiser of a Gaussian field of 3 independent channels; float32 or float64, as its input."""

    value_range = (-1.0, 1.0)

    def __init__(
        self,
        options: GaussianOptions | None = None,
        *,
        schedule: NoiseSchedule | None = None,
        device: str = "cpu",
    ) -> None:
        self.options = options or GaussianOptions()
        self.schedule = schedule or noise_schedule(load_card("gaussian"))
        self.sample_shape = (3, self.options.size, self.options.size)
        self.mode_variance = mode_variance(self.options)
        self.device = torch.device(device)
        self._cosines = torch.tensor(cosine_matrix(self.options.size), device=self.device)
        self._gains: dict[int, NDArray[np.float64]] = {}

    def eps(self, x_t: Tensor, t: float, cond: Mapping[str, Tensor]) -> Tensor:
        """Posterior mean of the noise in x_t.

        Args:
          x_t: states, (B, 3, S, S).
          t: the network's time, a training timestep times the schedule's timestep_scale.
          cond: not used.

        Returns:
          eps_t, (B, 3, S, S), in the type of x_t; row i depends on row i of x_t only.

        Raises:
          UsageError: a shape or timestep that does not exist.
        """
        if tuple(x_t.shape[1:]) != self.sample_shape:
            raise UsageError(
                f"x_t has shape {tuple(x_t.shape)}; the gaussian model reads (B, {self._shape_text()})."
            )
        gain = torch.tensor(self._gain(t), dtype=x_t.dtype, device=self.device)
        x = x_t.to(self.device)
        if self.options.basis == "fourier":
            half = gain[
                :, : self.options.size // 2 + 1
            ]  # the spectrum is even, so rows of a real FFT suffice
            filtered = torch.fft.irfft2(torch.fft.rfft2(x) * half, s=x.shape[-2:])
        else:
            cosines = self._cosines.to(x_t.dtype)
            filtered = cosines.T @ ((cosines @ x @ cosines.T) * gain) @ cosines
        return filtered.to(x_t.device)

    def _gain(self, t: float) -> NDArray[np.float64]:
        """sqrt(1-a) / (a lam + 1-a) of every mode, (S, S), float64."""
        timestep = round(t / self.schedule.timestep_scale)
        last = self.schedule.num_train_timesteps - 1
        if not (
            math.isclose(timestep * self.schedule.timestep_scale, t, abs_tol=1e-9) and 0 <= timestep <= last
        ):
            raise UsageError(
                f"t={t:g} is no training timestep; use 0 to {last} times {self.schedule.timestep_scale:g}."
            )
        if timestep not in self._gains:
            a = float(self.schedule.alpha_bar[timestep])
            self._gains[timestep] = math.sqrt(1.0 - a) / (a * self.mode_variance + 1.0 - a)
        return self._gains[timestep]

    def _shape_text(self) -> str:
        return ", ".join(map(str, self.sample_shape))
