"""Noise-initialised fixed point: what iteration cannot solve stays Gaussian instead of staying flat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from taba_core.diffusion.forward import forward_diffuse
from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.inversion.guarded import solve
from taba_core.diffusion.inversion.method import Step, StepMethod
from taba_core.diffusion.inversion.methods.fixed_point import AtLeastOne
from taba_core.diffusion.inversion.problem import Problem
from taba_core.diffusion.inversion.registry import inversion_method


@inversion_method("noise-initialised")
@dataclass(frozen=True)
class NoiseInitialisedInversion(StepMethod):
    """Fixed point whose first steps start from forward diffusion in place of the state before.

    Iterate l starts at z = alpha_l x_0 + sigma_l n, with n the forward noise in the first step and afterwards
    n = (x_{l-1} - alpha_{l-1} x_0) / sigma_{l-1}, the noise found so far; then z <- P_l x_{l-1} + Q_l f(z, t_l).
    Iterates are x* + rho^m (z - x*): plain directions, where rho ~ 1 and iteration solves nothing, keep their
    Gaussian start, at a cost for the reconstruction of about 1 / (e (m + 1)) of it; all others converge to the
    exact inverse.

    Attributes:
      num_initialised: n, steps that start from noise.
      num_evaluations: m, iterations of those steps.
      rest_evaluations: iterations of the steps after them, from the state itself.
    """

    needs_noise = True
    implicit = True

    num_initialised: AtLeastOne = 5
    num_evaluations: AtLeastOne = 5
    rest_evaluations: AtLeastOne = 2

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> int:
        """n m + (T - n) rest."""
        steps = grid.num_inference_steps - forward_steps
        first = min(self.num_initialised, steps)
        return first * self.num_evaluations + (steps - first) * self.rest_evaluations

    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """Iterate from noise in the first steps, from the state afterwards; `state` counts steps."""
        taken = state or 0
        if taken < self.num_initialised:
            start, rounds = noise_start(problem, x, move), self.num_evaluations
        else:
            start, rounds = x, self.rest_evaluations
        done = solve(problem, x, move, start, rounds)
        return Step(done.x, done.eps, taken + 1, fallback=done.fallback)


def noise_start(problem: Problem, x: Tensor, move: Transition) -> Tensor:
    """x_0 with the noise that x holds at the level of the move's target; forward noise where x is x_0 itself."""
    if move.step == 1 and move.start.same_mix(problem.grid.level_zero):
        assert problem.noise is not None
        return forward_diffuse(problem.x_0, problem.noise, move.stop)
    found = (x - move.start.alpha * problem.x_0) / move.start.sigma
    return forward_diffuse(problem.x_0, found, move.stop)
