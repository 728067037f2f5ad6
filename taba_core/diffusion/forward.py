"""Forward diffusion: put noise of a given level on a clean image."""

from __future__ import annotations

import math

from torch import Tensor


def forward_diffuse(x_0: Tensor, noise: Tensor, alpha_bar: float) -> Tensor:
    """x = sqrt(a) x_0 + sqrt(1 - a) noise    (paper, Sec. 2 and Eq. 5).

    Args:
      x_0: clean states, (B, C, H, W).
      noise: independent standard normal numbers, same shape.
      alpha_bar: level to noise to, in [0, 1]; 1 returns x_0's values, 0 the noise.

    Raises:
      ValueError: alpha_bar outside [0, 1], or shapes differ.
    """
    if not 0 <= alpha_bar <= 1:
        raise ValueError(f"alpha_bar={alpha_bar} must be in [0, 1].")
    if x_0.shape != noise.shape:
        raise ValueError(f"noise of shape {tuple(noise.shape)} does not fit x_0 of shape {tuple(x_0.shape)}.")
    return math.sqrt(alpha_bar) * x_0 + math.sqrt(1 - alpha_bar) * noise
