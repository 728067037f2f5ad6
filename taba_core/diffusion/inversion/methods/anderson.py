"""Accelerated iterative inversion, AIDI (Pan et al., ICCV 2023), from a public re-implementation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.inversion.guarded import Iterate, solve
from taba_core.diffusion.inversion.method import Between, Step, StepMethod
from taba_core.diffusion.inversion.methods.fixed_point import AtLeastOne, NotNegative, bounded
from taba_core.diffusion.inversion.problem import Problem
from taba_core.diffusion.inversion.registry import inversion_method

# Axes: B samples in a batch, k iterates remembered.


@inversion_method("aidi-e")
@dataclass(frozen=True)
class AveragedInversion(StepMethod):
    """Fixed point with averaging, AIDI_E    (Pan et al., ICCV 2023).

    z^{k+1} = (g(z^k) + g(z^{k-1})) / 2, z^1 = g(z^0), z^0 = x_{l-1}, g the map of `fixed-point`.

    Attributes:
      num_iterations: K; a step costs K + 1 evaluations (g(z^{k-1}) is kept).
      tolerance: an image stops when rms(g(z) - z) is at most this; 0 never.
    """

    implicit = True

    num_iterations: AtLeastOne = 5
    tolerance: NotNegative = 0.0

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> int | Between:
        """(K + 1) a step."""
        steps = grid.num_inference_steps - forward_steps
        return bounded(steps, steps * (self.num_iterations + 1), self.tolerance)

    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """Iterate from the state itself."""
        rounds, tolerance = self.num_iterations + 1, self.tolerance
        return solve(problem, x, move, x, rounds, mix=last_two, window=2, tolerance=tolerance)


@inversion_method("aidi-a")
@dataclass(frozen=True)
class AndersonInversion(StepMethod):
    """Fixed point with Anderson acceleration, AIDI_A    (Pan et al., ICCV 2023).

    z^{k+1} = sum_i w_i g(z^i) over the last m + 1 iterates; w solves (R R^T + ridge I) w = 1 and is scaled to sum 1,
    R_i = g(z^i) - z^i; one system an image, in float64.

    Attributes:
      num_iterations: K; a step costs K + 1 evaluations.
      memory: m.
      ridge: relative to the largest diagonal entry of R R^T.
      tolerance: an image stops when rms(g(z) - z) is at most this; 0 never.
    """

    implicit = True

    num_iterations: AtLeastOne = 5
    memory: AtLeastOne = 3
    ridge: NotNegative = 1e-12
    tolerance: NotNegative = 0.0

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> int | Between:
        """(K + 1) a step."""
        steps = grid.num_inference_steps - forward_steps
        return bounded(steps, steps * (self.num_iterations + 1), self.tolerance)

    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """Iterate from the state itself."""
        return solve(
            problem,
            x,
            move,
            x,
            self.num_iterations + 1,
            mix=lambda history: anderson_weights(history, self.ridge),
            window=self.memory + 1,
            tolerance=self.tolerance,
        )


def last_two(history: Sequence[Iterate]) -> Tensor:
    """Equal weights of the last two iterates, (B, k); all on the only one of the first round."""
    return history[0].z.new_full((len(history[0].z), len(history)), 1 / len(history), dtype=torch.float64)


def anderson_weights(history: Sequence[Iterate], ridge: float) -> Tensor:
    """Weights (B, k) that sum to 1 and make sum_i w_i R_i least, R_i = g(z^i) - z^i; float64."""
    residuals = torch.stack([it.residual for it in history], dim=1)
    gram = residuals @ residuals.transpose(1, 2)
    scale = gram.diagonal(dim1=1, dim2=2).amax(1)
    # An image whose residuals are all zero has converged: any weights do, equal ones among them.
    scale = torch.where(scale > 0, scale, 1.0)
    unit = torch.eye(len(history), dtype=gram.dtype, device=gram.device)
    damped = gram / scale.view(-1, 1, 1) + max(ridge, torch.finfo(gram.dtype).eps) * unit
    weights = torch.linalg.solve(damped, torch.ones_like(gram[:, :, :1]))[:, :, 0]
    return weights / weights.sum(1, keepdim=True)
