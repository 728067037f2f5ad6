"""Forward diffusion: put noise of a given level on a clean image."""

from __future__ import annotations

from torch import Tensor

from taba_core.diffusion.level import Level


def forward_diffuse(x_0: Tensor, noise: Tensor, level: Level) -> Tensor:
    """x = alpha x_0 + sigma noise    (paper, Sec. 2 and Eq. 5).

    Args:
      x_0: clean states, (B, C, H, W).
      noise: independent standard normal numbers, same shape.
      level: level to noise to, `Level.vp(alpha_bar)` of a variance-preserving model; that of the clean image returns
        x_0's values, that of pure noise the noise.

    Raises:
      ValueError: shapes differ.

    >>> x_0, noise = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 3.0)
    >>> round(forward_diffuse(x_0, noise, Level.vp(0.64)).item(), 6)  # .8 * 2 + .6 * 3
    3.4
    """
    if x_0.shape != noise.shape:
        raise ValueError(f"noise of shape {tuple(noise.shape)} does not fit x_0 of shape {tuple(x_0.shape)}.")
    return level.alpha * x_0 + level.sigma * noise
