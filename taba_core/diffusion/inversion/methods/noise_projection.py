"""Noise projection: after the first steps the implied noise is given the power spectrum of white noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from taba_core.diffusion.ddim import move as ddim_move
from taba_core.diffusion.forward import forward_diffuse
from taba_core.diffusion.grid import Transition
from taba_core.diffusion.inversion.method import Step, StepMethod
from taba_core.diffusion.inversion.methods.fixed_point import AtLeastOne
from taba_core.diffusion.inversion.methods.predictor_corrector import predicted
from taba_core.diffusion.inversion.problem import Problem
from taba_core.diffusion.inversion.registry import inversion_method
from taba_core.diffusion.level import Level
from taba_core.diffusion.noise_loss import with_white_octaves

# Axes: B samples in a batch, C channels, H rows, W columns.


@inversion_method("noise-projection")
@dataclass(frozen=True)
class NoiseProjection(StepMethod):
    """One evaluation a step, as DDIM inversion, asked at a predicted state; the first steps' noise is made white.

    The first steps return too little noise with about the right pattern. After each of them the implied noise
    n = (x_l - alpha_l x_0) / sigma_l goes through `noise_loss.with_white_octaves` and back into x_l. Every step asks
    at P_l x_{l-1} + Q_l f, with f on the line through the last two predictions, as `predictor-corrector` does.

    The projection has no scale, so it is the same at any resolution, unlike the regulariser of Pix2Pix-Zero, and it
    bounds what inexact images do: of images rounded to 8 bits the latents of plain areas come out as large as noise,
    where methods that solve the first steps make them half as large again. It needs no noise. Where 20 evaluations
    more are at hand and images are not rounded, `predictor-corrector` is nearer to the true noise.

    Attributes:
      num_projected: steps whose implied noise is projected. An image's noise is white only where it dominates the
        image, so more of them make latents whiter and reconstructions worse.
      strength: 0 to 1, see `with_white_octaves`. Octaves that a step has made too large stay so: three halves of the
        way end nearer to white on the photo mixture than three whole ones, which overshoot in busy areas.
    """

    implicit = True

    num_projected: AtLeastOne = 3
    strength: Annotated[float, Field(ge=0, le=1)] = 0.5

    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """Ask at the predicted state, and project; `state` is the number of steps taken and (s, f) of the last two."""
        taken, past = state or (0, ())
        s = problem.held.clock(move.stop)
        z = predicted(problem, x, move, past) if past else x
        line = problem.line(x, problem.predict(z, move.asked_beyond), move)
        z, _ = ddim_move(line, move.stop)
        if taken < self.num_projected:
            z = self._projected(problem.x_0, z, move.stop)
            line = problem.implied(x, z, move)
        return Step(z, line.eps, (taken + 1, (*past[-1:], (s, problem.held.of(line)))))

    def _projected(self, x_0: Tensor, x: Tensor, level: Level) -> Tensor:
        sigma = level.sigma
        noise = (x - level.alpha * x_0) / sigma
        # An octave of rounding errors has no pattern to scale.
        rounding = 64 * torch.finfo(x.dtype).eps * x.abs().amax((1, 2, 3)).double() / sigma
        white = with_white_octaves(noise, strength=self.strength, floor=rounding.square())
        return forward_diffuse(x_0, white, level)
