"""Noise projection: after the first steps the implied noise is given the power spectrum of white noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from taba_core.diffusion.forward import forward_diffuse
from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.inversion.fixed_point import AtLeastOne
from taba_core.diffusion.inversion.guarded import implied_eps, solve
from taba_core.diffusion.inversion.method import Step, StepMethod
from taba_core.diffusion.inversion.noise_initialised import noise_start
from taba_core.diffusion.inversion.problem import Problem
from taba_core.diffusion.inversion.registry import inversion_method
from taba_core.diffusion.noise_loss import with_white_octaves

# Axes: B samples in a batch, C channels, H rows, W columns.


@inversion_method("noise-projection")
@dataclass(frozen=True)
class NoiseProjection(StepMethod):
    """DDIM inversion's first steps with their implied noise made white, and no evaluation more.

    The first steps return too little noise with about the right pattern. After each of them the implied noise
    n = (x_l - sqrt(a_l) x_0) / sigma_l goes through `noise_loss.with_white_octaves` and back into x_l. Later steps ask
    at z = sqrt(a_l) x_0 + sigma_l n with n the noise of x_{l-1}, and move x_{l-1} by the answer. Scale-free, hence the
    same at any resolution, unlike the regulariser of Pix2Pix-Zero. Needs no noise.

    Attributes:
      num_projected: steps whose implied noise is projected. The noise of an image is white only where it dominates the
        image, so many make the latents whiter and the reconstruction worse.
      strength: 0 to 1, see `with_white_octaves`.
      rest_evaluations: iterations of each later step.
    """

    implicit = True

    num_projected: AtLeastOne = 2
    strength: Annotated[float, Field(ge=0, le=1)] = 1.0
    rest_evaluations: AtLeastOne = 1

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> int:
        """n + (T - n) rest."""
        steps = grid.num_inference_steps - forward_steps
        first = min(self.num_projected, steps)
        return first + (steps - first) * self.rest_evaluations

    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """Projection in the first steps, iteration in the others; `state` counts steps."""
        taken = state or 0
        if taken >= self.num_projected:
            done = solve(problem, x, move, noise_start(problem, x, move), self.rest_evaluations)
            return Step(done.x, done.eps, taken + 1, fallback=done.fallback)
        there, _ = problem.move(x, problem.eps(x, move.network_time), move)
        z = self._projected(problem.x_0, there, move.alpha_bar_to)
        return Step(z, implied_eps(x, z, move), taken + 1)

    def _projected(self, x_0: Tensor, x: Tensor, alpha_bar: float) -> Tensor:
        sigma = math.sqrt(1 - alpha_bar)
        noise = (x - math.sqrt(alpha_bar) * x_0) / sigma
        # An octave of rounding errors has no pattern to scale.
        rounding = 64 * torch.finfo(x.dtype).eps * x.abs().amax((1, 2, 3)).double() / sigma
        white = with_white_octaves(noise, strength=self.strength, floor=rounding.square())
        return forward_diffuse(x_0, white, alpha_bar)
