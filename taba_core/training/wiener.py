"""The Wiener filter: the best prediction of the noise that knows only mean and covariance of the data."""

from __future__ import annotations

import torch
from torch import Tensor

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

    def eps(self, x_t: Tensor, alpha_bar: float) -> Tensor:
        """sqrt(1 - a) (a Sigma + (1 - a) I)^-1 (x_t - sqrt(a) mu), in the shape of x_t, float32."""
        centred = x_t.flatten(1).double() - alpha_bar**0.5 * self._mean
        gain = (1.0 - alpha_bar) ** 0.5 / (alpha_bar * self._variance + 1.0 - alpha_bar)
        return (((centred @ self._modes) * gain) @ self._modes.T).view_as(x_t).float()
