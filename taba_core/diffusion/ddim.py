"""The DDIM move between two noise levels, and the rules applied to the predicted clean image on the way."""

from __future__ import annotations

import math
from typing import get_args

import torch
from torch import Tensor

from taba_core.conventions import X0Rule
from taba_core.errors import unknown_name

# Axes: B samples in a batch, C channels, H rows, W columns. Coefficients are Python floats (float64).

DYNAMIC_QUANTILE = 0.95  # DeepFloyd IF: dynamic_thresholding_ratio
DYNAMIC_MAX = 1.5  # DeepFloyd IF: sample_max_value


def ddim_step(x_from: Tensor, eps: Tensor, alpha_bar_from: float, alpha_bar_to: float) -> Tensor:
    """Move along the DDIM path between two noise levels, in either direction.

    x_to = sqrt(a_to) * (x_from - sqrt(1 - a_from) eps) / sqrt(a_from) + sqrt(1 - a_to) eps  (paper, Eq. 1-3)

    evaluated as P x_from + Q eps with P = sqrt(a_to / a_from), Q = sqrt(1 - a_to) - P sqrt(1 - a_from), so
    that no digits of x_from are lost when the two levels are close.

    Args:
      x_from: state at the first level, (B, C, H, W), model units (dimensionless).
      eps: predicted noise, same shape.
      alpha_bar_from, alpha_bar_to: cumulative signal power of the levels, in (0, 1] and [0, 1].

    Raises:
      ValueError: a level outside its range; at alpha_bar_from = 0 the clean image cannot be recovered.
    """
    _check_source(alpha_bar_from)
    _check_target(alpha_bar_to)
    ratio = math.sqrt(alpha_bar_to / alpha_bar_from)
    return ratio * x_from + (math.sqrt(1 - alpha_bar_to) - ratio * math.sqrt(1 - alpha_bar_from)) * eps


def predict_x0(x: Tensor, eps: Tensor, alpha_bar: float) -> Tensor:
    """Clean image implied by a state and its noise: x_0 = (x - sqrt(1 - a) eps) / sqrt(a)    (paper, Eq. 1).

    Args:
      x, eps: (B, C, H, W).
      alpha_bar: level of x, in (0, 1].

    Raises:
      ValueError: alpha_bar is not in (0, 1].
    """
    _check_source(alpha_bar)
    return (x - math.sqrt(1 - alpha_bar) * eps) / math.sqrt(alpha_bar)


def apply_x0_rule(x: Tensor, eps: Tensor, alpha_bar_from: float, rule: X0Rule) -> tuple[Tensor, Tensor]:
    """Predicted clean image after the model's rule, and the noise that goes with it.

    - none: x_0 as predicted.
    - clip: x_0 clamped to [-1, 1], eps kept (diffusers `clip_sample`).
    - clip-rederive: x_0 clamped and eps = (x - sqrt(a) x_0) / sqrt(1 - a) from it (guided-diffusion
      `clip_denoised`); at a = 1 the state holds no noise and eps is kept.
    - dynamic: s = 95 % quantile of |x_0| per sample, limited to [1, 1.5]; x_0 clamped to [-s, s], then
      divided by s; eps kept (Imagen, Sec. 2.3; DeepFloyd IF).

    Args:
      x, eps: state and predicted noise, (B, C, H, W).
      alpha_bar_from: level of x, in (0, 1].

    Returns:
      (x_0, eps), each (B, C, H, W).

    Raises:
      UsageError: no such rule. ValueError: alpha_bar_from is not in (0, 1].
    """
    x_0 = predict_x0(x, eps, alpha_bar_from)
    if rule == "none":
        return x_0, eps
    if rule == "clip":
        return x_0.clamp(-1, 1), eps
    if rule == "clip-rederive":
        x_0 = x_0.clamp(-1, 1)
        if alpha_bar_from == 1:
            return x_0, eps
        return x_0, (x - math.sqrt(alpha_bar_from) * x_0) / math.sqrt(1 - alpha_bar_from)
    if rule == "dynamic":
        s = torch.quantile(x_0.abs().flatten(1), DYNAMIC_QUANTILE, dim=1).clamp(1, DYNAMIC_MAX)
        s = s.view(-1, *[1] * (x_0.ndim - 1))
        return x_0.clamp(-s, s) / s, eps
    raise unknown_name("x0_rule", rule, get_args(X0Rule))


def move(
    x: Tensor, eps: Tensor, alpha_bar_from: float, alpha_bar_to: float, rule: X0Rule
) -> tuple[Tensor, Tensor]:
    """DDIM step under an x_0 rule: (x_to, the eps that moved the state).

    x_to = sqrt(a_to) x_0 + sqrt(1 - a_to) eps, with (x_0, eps) after the rule.

    Args and errors as `ddim_step` and `apply_x0_rule`.
    """
    if rule == "none":
        return ddim_step(x, eps, alpha_bar_from, alpha_bar_to), eps
    _check_target(alpha_bar_to)
    x_0, eps = apply_x0_rule(x, eps, alpha_bar_from, rule)
    return math.sqrt(alpha_bar_to) * x_0 + math.sqrt(1 - alpha_bar_to) * eps, eps


def _check_source(alpha_bar: float) -> None:
    if not 0 < alpha_bar <= 1:
        raise ValueError(
            f"alpha_bar_from={alpha_bar} must be in (0, 1]; "
            "the clean image cannot be recovered from pure noise."
        )


def _check_target(alpha_bar: float) -> None:
    if not 0 <= alpha_bar <= 1:
        raise ValueError(f"alpha_bar_to={alpha_bar} must be in [0, 1].")
