"""Guided Newton-Raphson inversion (GNRI): each step's equation solved by a scalar Newton step per coordinate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.inversion.method import Step, StepMethod
from taba_core.diffusion.inversion.problem import Problem
from taba_core.diffusion.inversion.registry import inversion_method

# Axes: B samples in a batch, C channels, H rows, W columns; D = C H W.


@inversion_method("gnri")
@dataclass(frozen=True)
class GuidedNewton(StepMethod):
    """Newton steps on a guided residual    (Samuel et al., ICLR 2025, Eq. 6-8; the authors' code).

    With g(z) = P_l x_{l-1} + Q_l f(z, tau_l), f the noise or eps - x_0 (`ends.Held`), from z = x_{l-1},
    `num_iterations` times per image:
    F(z) = sum_i |g(z)_i - z_i| + (alpha/2) ((g(z)_i - mu_i) / sigma_l)^2, mu = alpha_l x_0 (the level's),
    z_i <- z_i - (F / D) / (dF/dz_i).
    The g(z) of the smallest F is the next state, so one iteration is
    DDIM inversion. alpha pulls towards what forward diffusion of x_0 would have made. Each iteration but the last
    costs one backward pass with gradient=network.

    Attributes:
      num_iterations, alpha: as published.
      gradient: released = the authors' code, where g counts as a constant and dF/dz = -sign(g - z): every coordinate
        moves by F/D towards g(z). network = the paper: dF/dz through the network.
      gradient_floor: |dF/dz_i| is raised to this, as a coordinate whose derivative vanishes would jump anywhere.
    """

    implicit = True

    num_iterations: Annotated[int, Field(ge=1)] = 2
    alpha: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    gradient: Literal["released", "network"] = "released"
    gradient_floor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.3

    def __post_init__(self) -> None:
        """Only the paper's reading builds a graph."""
        object.__setattr__(self, "needs_gradient", self.gradient == "network")

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> int:
        """`num_iterations` a step; backward passes are not in it."""
        return self.num_iterations * (grid.num_inference_steps - forward_steps)

    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """One step, the candidate of the smallest objective."""
        z, best = x, None
        for iteration in range(self.num_iterations):
            last = iteration == self.num_iterations - 1
            candidate, eps, objective, slope = self._evaluate(problem, x, z, move, with_slope=not last)
            if best is None:
                best = objective, candidate, eps
            else:
                better = (objective < best[0]).view(-1, 1, 1, 1)
                best = (
                    torch.minimum(objective, best[0]),
                    torch.where(better, candidate, best[1]),
                    torch.where(better, eps, best[2]),
                )
            if slope is not None:
                bounded = slope.sign() * slope.abs().clamp(min=self.gradient_floor)
                mean = objective.to(z.dtype).view(-1, 1, 1, 1)
                z = torch.where(bounded == 0, z, z - mean / bounded)
        assert best is not None
        return Step(best[1], best[2])

    def _evaluate(
        self, problem: Problem, x: Tensor, z: Tensor, move: Transition, *, with_slope: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """g(z), its eps, F/D (B,) float64 and dF/dz (None unless asked for), all detached."""
        through_network = with_slope and self.gradient == "network"
        with torch.set_grad_enabled(through_network):
            z = z.detach().requires_grad_(through_network)
            candidate, eps = problem.move(x, problem.predict(z, move.asked_beyond), move)
            terms = (candidate - z).abs()
            if self.alpha:
                mean, sigma = move.stop.signal_power**0.5 * problem.x_0, move.stop.noise_power**0.5
                terms = terms + self.alpha / 2 * ((candidate - mean) / sigma).square()
            slope = None
            if through_network:
                (slope,) = torch.autograd.grad(terms.sum(), z)
            elif with_slope:
                slope = (z - candidate).sign()
        objective = terms.detach().double().flatten(1).mean(1)
        return candidate.detach(), eps.detach(), objective, slope
