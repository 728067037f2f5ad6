"""The DDIM move between two noise levels, and the rules applied to the predicted clean image on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from taba_core.conventions import X0Rule
from taba_core.diffusion.ends import Ends, Held
from taba_core.diffusion.level import Level
from taba_core.errors import unknown_name

if TYPE_CHECKING:
    from torch import Tensor

# Axes: B samples in a batch, C channels, H rows, W columns. Coefficients are Python floats (float64).

DYNAMIC_QUANTILE = 0.95  # DeepFloyd IF: dynamic_thresholding_ratio
DYNAMIC_MAX = 1.5  # DeepFloyd IF: sample_max_value


def ddim_step(x_from: Tensor, eps: Tensor, start: Level, stop: Level) -> Tensor:
    """Move along the DDIM path between two noise levels, in either direction.

    x_to = alpha_to (x_from - sigma_from eps) / alpha_from + sigma_to eps                     (paper, Eq. 1-3)

    evaluated as P x_from + Q eps with P = alpha_to / alpha_from, Q = sigma_to - P sigma_from, so that no digits of
    x_from are lost when the two levels are close.

    Args:
      x_from: state at the first level, (B, C, H, W), model units (dimensionless).
      eps: predicted noise, same shape.
      start, stop: the two levels; alpha of the first is above 0.

    Raises:
      ValueError: alpha of the first level is 0, where the clean image cannot be recovered.
    """
    P, Q = Held.NOISE.coefficients(start, stop)
    return P * x_from + Q * eps


def predict_x0(x: Tensor, eps: Tensor, level: Level) -> Tensor:
    """Clean image implied by a state and its noise: x_0 = (x - sigma eps) / alpha    (paper, Eq. 1).

    Args:
      x, eps: (B, C, H, W).
      level: of x; alpha is above 0.

    Raises:
      ValueError: alpha is 0.
    """
    return Ends(x, level, eps).x_0


def apply_x0_rule(ends: Ends, rule: X0Rule) -> Ends:
    """A prediction after the model's rule on the clean image.

    - none: as predicted.
    - clip: x_0 clamped to [-1, 1], eps kept (diffusers `clip_sample`).
    - clip-rederive: x_0 clamped and eps = (x - alpha x_0) / sigma from it (guided-diffusion `clip_denoised`); at
      sigma = 0 the state holds no noise and eps is kept.
    - dynamic: s = 95 % quantile of |x_0| per sample, limited to [1, 1.5]; x_0 clamped to [-s, s], then divided by s;
      eps kept (Imagen, Sec. 2.3; DeepFloyd IF).

    Raises:
      UsageError: no such rule. ValueError: alpha of the level is 0, and only the noise was predicted.
    """
    x, level, eps = ends.x, ends.level, ends.eps
    if rule == "none":
        return ends
    if rule == "clip":
        return Ends(x, level, eps, ends.x_0.clamp(-1, 1))
    if rule == "clip-rederive":
        x_0 = ends.x_0.clamp(-1, 1)
        return Ends(x, level, eps if not level.noise_power else (x - level.alpha * x_0) / level.sigma, x_0)
    if rule == "dynamic":
        import torch  # here: methods are looked up where nothing is computed

        x_0 = ends.x_0
        s = torch.quantile(x_0.abs().flatten(1), DYNAMIC_QUANTILE, dim=1).clamp(1, DYNAMIC_MAX)
        s = s.view(-1, *[1] * (x_0.ndim - 1))
        return Ends(x, level, eps, x_0.clamp(-s, s) / s)
    raise unknown_name("x0_rule", rule, get_args(X0Rule))


def move(ends: Ends, stop: Level) -> tuple[Tensor, Tensor]:
    """DDIM step: (x_to, the eps that moved the state), each (B, C, H, W).

    x_to = alpha_to x_0 + sigma_to eps; where the noise alone was predicted, `ddim_step`.

    Args:
      ends: the prediction, after the x_0 rule if there is one (`apply_x0_rule`).

    Raises:
      ValueError: alpha of the first level is 0, and only the noise was predicted.
    """
    if ends.clean is None:
        return ddim_step(ends.x, ends.eps, ends.level, stop), ends.eps
    return stop.alpha * ends.x_0 + stop.sigma * ends.eps, ends.eps
