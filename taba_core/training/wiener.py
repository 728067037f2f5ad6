"""The Wiener filter: the best prediction of the noise that knows only mean and covariance of the data."""

from __future__ import annotations

import torch
from torch import Tensor

from taba_core.diffusion.level import Level

# Axes: n examples, d = C H W dimensions.


class WienerFilter:
    """Posterior mean of the noise for Gaussian data fitted to examples.

    Args:
      examples: (n, C, H, W); many more than d = C H W of them, or the fit describes the examples themselves.
    """

    def __init__(self, examples: Tensor) -> None:
        flat = examples.flatten(1).double()
        self._mean = flat.mean(0)
        centred = flat - self._mean
        variance, self._modes = torch.linalg.eigh(centred.T @ centred / len(flat))
        self._variance = variance.clamp(min=0.0)

    def eps(self, x_t: Tensor, level: Level) -> Tensor:
        """sigma (alpha^2 Sigma + sigma^2 I)^-1 (x_t - alpha mu), in the shape of x_t, float32."""
        centred = x_t.flatten(1).double() - level.alpha * self._mean
        gain = level.sigma / (level.signal_power * self._variance + level.noise_power)
        return (((centred @ self._modes) * gain) @ self._modes.T).view_as(x_t).float()
