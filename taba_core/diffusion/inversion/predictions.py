"""What an inversion would predict from exact states of the sampling path (App. J), without inverting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from taba_core.conventions import HeldQuantity, X0Rule
from taba_core.diffusion.ddim import apply_x0_rule
from taba_core.diffusion.denoiser import Denoiser, predict_ends
from taba_core.diffusion.ends import Ends
from taba_core.diffusion.grid import TimestepGrid
from taba_core.diffusion.holding import holding
from taba_core.diffusion.sampling import Conditioning, working_precision
from taba_core.errors import UsageError

# Axes: B samples in a batch, S steps, C channels, H rows, W columns.


@torch.no_grad()
def step_predictions(
    model: Denoiser,
    states: Tensor,
    grid: TimestepGrid,
    steps: Sequence[int],
    cond: Conditioning | None = None,
    *,
    x0_rule: X0Rule = "none",
    held: HeldQuantity = "auto",
    **conventions: Any,
) -> Tensor:
    """What an inversion would predict in each step if it stood on the exact sampling state    (App. J).

    eps_hat_l = eps(x_{l-1}, time of step l): one evaluation per cached state, not one inversion per step.
    A rule that re-derives eps does so at the level of the network's time, as the generation did for its own.

    Args:
      states: exact states x_{l-1} of the sampling path, (B, S, C, H, W), in the order of `steps`.
      steps: the S step numbers l, each in 1..T.
      held: what the inversion's steps carry, which decides at which level the noise is read.
      conventions: network_time, levels and first_time of the inversion; see `TimestepGrid.upward`. Under shifted
        levels step l asks the network at the time of level l, as the sampler's step l does.

    Returns:
      eps_hat, (B, S, C, H, W).

    Raises:
      UsageError: as many steps as states are needed, and each must be in 1..T.
    """
    T = grid.num_inference_steps
    if states.shape[1] != len(steps) or not all(1 <= step <= T for step in steps):
        raise UsageError(
            f"steps={list(steps)} for states of shape {tuple(states.shape)}: "
            f"give one step in 1 to {T} for each entry of axis 1."
        )
    transitions = grid.upward(**conventions)
    model, predictions = holding(model, held), []
    for index, step in enumerate(steps):
        x, transition = working_precision(states[:, index]), transitions[step - 1]
        eps = predict_ends(model, x, transition.asked, {} if cond is None else cond).eps
        predictions.append(apply_x0_rule(Ends(x, transition.network, eps), x0_rule).eps)
    return torch.stack(predictions, dim=1)
