"""Fixed-point inversion, plain and started from noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.inversion.guarded import solve
from taba_core.diffusion.inversion.method import Between, Step, StepMethod
from taba_core.diffusion.inversion.problem import Problem
from taba_core.diffusion.inversion.registry import inversion_method

AtLeastOne = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]


@inversion_method("fixed-point")
@dataclass(frozen=True)
class FixedPointInversion(StepMethod):
    """Each sampling step solved for its input by plain iteration (Meiri et al., arXiv 2312.12540).

    z <- P_l x_{l-1} + Q_l f(z, t_l) from z = x_{l-1}, with f the noise, or eps - x_0 of networks that give both ends
    (`ends.Held`). One evaluation is DDIM inversion at target times where f is what the network predicts. A guard damps
    images that diverge; see `guarded.solve`.

    Attributes:
      num_evaluations: iterations a step.
      tolerance: an image stops when rms(g(z) - z) is at most this; 0 never.
    """

    implicit = True

    num_evaluations: AtLeastOne = 20
    tolerance: NotNegative = 0.0

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> int | Between:
        """num_evaluations a step; at least one of them where images may stop early."""
        steps = grid.num_inference_steps - forward_steps
        return bounded(steps, steps * self.num_evaluations, self.tolerance)

    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """Iterate from the state itself."""
        return solve(problem, x, move, x, self.num_evaluations, tolerance=self.tolerance)


def bounded(low: int, high: int, tolerance: float) -> int | Between:
    """`high` evaluations, or bounds where a tolerance may end an image's iteration."""
    return Between(low, high) if tolerance else high
