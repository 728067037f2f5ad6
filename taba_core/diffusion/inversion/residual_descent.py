"""Residual descent: the first, ill-conditioned steps solved by Adam without a gradient of the network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from taba_core.diffusion.descent import Descent, descend
from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.inversion.anderson import anderson_weights
from taba_core.diffusion.inversion.fixed_point import AtLeastOne
from taba_core.diffusion.inversion.guarded import Iterate, implied_eps, solve
from taba_core.diffusion.inversion.method import Fallback, Step, StepMethod
from taba_core.diffusion.inversion.noise_initialised import noise_start
from taba_core.diffusion.inversion.problem import Problem
from taba_core.diffusion.inversion.registry import inversion_method

# Axes: B samples in a batch, C channels, H rows, W columns.

RIDGE = 1e-12  # of the Anderson system, relative
MOMENTS = (0.5, 0.9)  # of Adam: a memory of two and of ten updates


@inversion_method("residual-descent")
@dataclass(frozen=True)
class ResidualDescent(StepMethod):
    """The first steps by Adam along their own residual, the others by fixed point from the noise found so far.

    Step l is to solve S_l(x) = x_{l-1}, S_l the sampler's step. For an ideal denoiser its Jacobian
    (1/P_l) ((1 - Q_l/sigma_l) I + (Q_l a_l / sigma_l^3) Cov[x_0|x]) is symmetric and positive, so the residual
    r = S_l(z) - x_{l-1} is itself a gradient, that of the energy norm of z - x_l: no backward pass is needed. Its
    eigenvalues differ by orders of magnitude between plain and busy areas, which stops fixed-point iteration in plain
    ones; Adam divides by the size of r in every pixel, and so moves plain areas as fast as the others. Residuals of the
    size of rounding move nothing.

    Later steps start from z = sqrt(a_l) x_0 + sigma_l n with n the noise of x_{l-1}, and are solved by the fixed point
    of P_l x_{l-1} + Q_l eps(z, tau_l) with Anderson acceleration over two iterates. Needs no noise and no randomness.

    Like every inversion that is nearly exact it also inverts what is no part of the model's image: of images rounded to
    8 bits the latents of plain areas come out too large (std 1.4 on the photo mixture, and 1.5 by fixed point).

    An image whose residual grew in the descent keeps its best iterate (`Fallback.BEST_ITERATE`).

    Attributes:
      num_descended: steps that go by descent.
      num_iterations: of Adam, one evaluation each, after one of DDIM inversion to start from.
      learning_rate: of Adam, in units of sigma_l.
      rest_evaluations: iterations of each later step.
    """

    implicit = True

    num_descended: AtLeastOne = 2
    num_iterations: AtLeastOne = 8
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.25
    rest_evaluations: AtLeastOne = 2

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> int:
        """n (m + 1) + (T - n) rest."""
        steps = grid.num_inference_steps - forward_steps
        first = min(self.num_descended, steps)
        return first * (self.num_iterations + 1) + (steps - first) * self.rest_evaluations

    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """Descent in the first steps, iteration in the others; `state` counts steps."""
        taken = state or 0
        if taken < self.num_descended:
            done = self._descend(problem, x, move)
        else:
            start, rounds = noise_start(problem, x, move), self.rest_evaluations
            done = solve(problem, x, move, start, rounds, mix=_secant, window=2)
        return Step(done.x, done.eps, taken + 1, fallback=done.fallback)

    def _descend(self, problem: Problem, x: Tensor, move: Transition) -> Step:
        back = replace(move, alpha_bar_from=move.alpha_bar_to, alpha_bar_to=move.alpha_bar_from)

        def residual(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            lower, _ = problem.move(z, problem.eps(z, move.network_time, rows=rows), back)
            r = lower - x[rows]
            return r.double().flatten(1).square().mean(1), torch.where(r.abs() > rounding[rows], r, 0)

        # Adam would blow up whatever is left; what is left of a solved pixel is rounding.
        rounding = 16 * torch.finfo(x.dtype).eps * x.abs().amax((1, 2, 3), keepdim=True)
        start, _ = problem.move(x, problem.eps(x, move.network_time), move)
        found = descend(
            start,
            residual,
            learning_rate=self.learning_rate * math.sqrt(1 - move.alpha_bar_to),
            num_steps=self.num_iterations,
            enough=0.0,
            moments=MOMENTS,
            eps=torch.finfo(x.dtype).eps,
        )
        return _guarded(x, found, move)


def _secant(history: Sequence[Iterate]) -> Tensor:
    return anderson_weights(history, RIDGE)


def _guarded(x: Tensor, found: Descent, move: Transition) -> Step:
    """The last values, or the best ones of images whose residual is larger than at the start."""
    grew = (found.last_loss > found.first_loss).to(x.device)
    z = torch.where(grew.view(-1, 1, 1, 1), found.best, found.last)
    return Step(z, implied_eps(x, z, move), fallback=grew.to(torch.int8) * int(Fallback.BEST_ITERATE))
