"""Edit-friendly DDPM inversion: the noise of every step (Huberman-Spiegelglas et al., CVPR 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from taba_core.diffusion.ddim import apply_x0_rule
from taba_core.diffusion.forward import forward_diffuse
from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.inversion.method import Carried, Record, Shape, Whole, WholeMethod
from taba_core.diffusion.inversion.problem import Dynamics, Problem
from taba_core.diffusion.inversion.registry import inversion_method
from taba_core.diffusion.sampling import StepRecord
from taba_core.rng import MAX_SEED

# Axes: B samples in a batch, C channels, H rows, W columns; T steps.

STREAM = "edit-friendly"


class _Ancestral(NamedTuple):
    """Sampling step x_{l-1} = mu + scale z."""

    mu: Tensor
    scale: float
    eps: Tensor


@inversion_method("edit-friendly")
@dataclass(frozen=True)
class EditFriendlyDDPM(WholeMethod):
    """The noise maps with which ancestral sampling (DDPM, eta = 1) makes this image.

    Each level is noised by itself, x_l = alpha_l x_0 + sigma_l n_l with independent n_l, and the noise of
    each sampling step is what is missing between two of them, l = T..1:

        mu_l = alpha_{l-1} x̂_0(x_l) + sqrt(sigma_{l-1}^2 - V_l) eps(x_l, t_l),
        V_l = sigma_{l-1}^2 (1 - (alpha_l sigma_{l-1} / (alpha_{l-1} sigma_l))^2),    z_l = (x_{l-1} - mu_l) /
        sqrt(V_l),

    after which x_{l-1} <- mu_l + sqrt(V_l) z_l takes up the rounding. The latent x_T is forward diffusion, exactly
    Gaussian and without information on the image beyond alpha_T x_0; the image is in `steps`, z_1..z_T,
    (B, T, C, H, W), whose variance is above 1 and which are correlated. It is no noise-to-image latent.
    T evaluations each way.

    Where V_1 = 0 (level 0 is clean, or the same as level 1) the last step can add no noise and leaves a residual of
    about sigma_1; with num_zeroed = 0 that residual itself is stored in place of z_1.

    Attributes:
      num_zeroed: how many of the last sampling steps (l = 1, 2, ..) have their noise set to 0: 1 as published, 3 in
        LEDITS++, 0 for the exact image.
      seed: of the n_l.
    """

    own_sampler = True

    num_zeroed: Annotated[int, Field(ge=0)] = 1
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0

    def carried_shapes(
        self, grid: TimestepGrid, sample_shape: Shape, cond_shapes: Mapping[str, Shape]
    ) -> dict[str, Shape]:
        """`steps`, the noise of the T sampling steps."""
        return {"steps": (grid.num_inference_steps, *sample_shape)}

    def invert_whole(self, problem: Problem, record: Record) -> Whole:
        """Levels noised one by one, then the noise of each step from the top down."""
        states, records = self._noised_levels(problem), []
        latent = x = states[:, -1].clone()
        for move in problem.grid.downward():
            l, step = move.step, _ancestral_step(problem, x, move)
            lower = states[:, l - 2] if l > 1 else problem.x_0
            z = (lower - step.mu) / step.scale if l > self.num_zeroed else torch.zeros_like(x)
            states[:, l - 1] = z  # in the place of x_l, which has been used
            x_to = step.mu + step.scale * z
            records.append(StepRecord(l, x_to, step.eps, x))
            x = x_to
        for taken in reversed(records):
            record(taken)
        return Whole(latent, {"steps": states})

    def reconstruct(self, dynamics: Dynamics, latent: Tensor, carried: Carried, record: Record) -> Tensor:
        """Ancestral sampling with the stored noise."""
        x, z = latent, carried["steps"]
        for move in dynamics.grid.downward():
            step = _ancestral_step(dynamics, x, move)
            x_to = step.mu + step.scale * z[:, move.step - 1]
            record(StepRecord(move.step, x, step.eps, x_to))
            x = x_to
        return x

    def _noised_levels(self, problem: Problem) -> Tensor:
        """x_1..x_T, each with noise of its own, (B, T, C, H, W)."""
        x_0, levels = problem.x_0, problem.grid.upper_levels
        states = x_0.new_empty((len(x_0), len(levels), *x_0.shape[1:]))
        for i, level in enumerate(levels):
            n = problem.normal(x_0, seed=self.seed, stream=f"{STREAM}/{i + 1}")
            states[:, i] = forward_diffuse(x_0, n, level)
        return states


def _ancestral_step(dynamics: Dynamics, x: Tensor, move: Transition) -> _Ancestral:
    """mean of x_{l-1} given x_l, and the scale of its noise: sqrt(V_l), or 1 where that is 0."""
    upper, lower = move.start, move.stop
    power = upper.signal_power + upper.noise_power, lower.signal_power + lower.noise_power
    V = (
        lower.noise_power
        / upper.noise_power
        * (power[0] - upper.signal_power / lower.signal_power * power[1])
    )
    x_0, eps = apply_x0_rule(dynamics.predict(x, move.asked), dynamics.x0_rule)
    mu = lower.alpha * x_0 + math.sqrt(max(lower.noise_power - V, 0.0)) * eps
    return _Ancestral(mu, math.sqrt(V) if V > 0 else 1.0, eps)
