"""FlowEdit (Kulikov et al. 2024): an image of a flow led from one condition to another, without a latent."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from taba_core.diffusion.denoiser import Denoiser, predict_ends
from taba_core.diffusion.ends import Held
from taba_core.diffusion.grid import TimestepGrid
from taba_core.diffusion.level import Level
from taba_core.diffusion.sampling import Conditioning, working_precision
from taba_core.errors import UsageError

# Axes: B samples in a batch, C channels, H rows, W columns.

# draw(step) -> standard normal noise of a step, (B, C, H, W), on the device of the images.
Draw = Callable[[int], Tensor]


@torch.no_grad()
def flow_edit(
    source: Denoiser,
    target: Denoiser,
    x_0: Tensor,
    grid: TimestepGrid,
    *,
    cond: Conditioning,
    target_cond: Conditioning,
    draw: Draw,
    first_step: int,
) -> Tensor:
    """z <- z - D_l (v_tar(z + a - x_0, s_l) - v_src(a, s_l)), l = first_step..1, from z = x_0    (Alg. 1, one draw).

    a = (1 - s_l) x_0 + s_l n with fresh noise n, D_l = s_l - s_{l-1}. With one condition and one guidance for both the
    image comes back bit for bit. Each step takes one prediction of either denoiser.

    Args:
      source, target: the denoiser, each under its guidance.
      x_0: images, (B, C, H, W).
      grid: levels of a flow.
      cond, target_cond: the condition of the images, and the one they are led to.
      first_step: the noisiest step that is walked, 1..T.

    Returns:
      The edited images, (B, C, H, W).

    Raises:
      UsageError: levels that are no flow's, or a step outside 1..T.
    """
    if not grid.schedule.is_flow:
        raise UsageError("FlowEdit leads images along a flow's velocity; use a model of a flow.")
    if not 1 <= first_step <= grid.num_inference_steps:
        raise UsageError(
            f"FlowEdit from step {first_step} of {grid.num_inference_steps}; use 1 to {grid.num_inference_steps}."
        )
    x_0 = working_precision(x_0)
    moved = torch.zeros_like(x_0)
    for move in grid.downward()[-first_step:]:
        level = move.start
        noised = level.alpha * x_0 + level.sigma * draw(move.step).to(x_0)
        difference = _velocity(target, noised + moved, level, target_cond) - _velocity(
            source, noised, level, cond
        )
        _, Q = Held.VELOCITY.coefficients(level, move.stop)
        moved = moved + Q * difference
    return x_0 + moved


def _velocity(denoiser: Denoiser, x: Tensor, level: Level, cond: Conditioning) -> Tensor:
    return Held.VELOCITY.of(predict_ends(denoiser, x, level, cond))
