"""Gradient descent on the fixed-point residual of every step (SPDInv, Li et al., ECCV 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from taba_core.diffusion.descent import descend
from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.inversion.method import Between, Step, StepMethod
from taba_core.diffusion.inversion.problem import Problem
from taba_core.diffusion.inversion.registry import inversion_method

# Axes: B samples in a batch, R rows of a batch, C channels, H rows, W columns.


@inversion_method("spdinv")
@dataclass(frozen=True)
class SPDInv(StepMethod):
    """The sampler's step, solved for its input by descent instead of iteration (Li et al., ECCV 2024).

    Step l starts at DDIM's z = g(x_{l-1}) and lowers, through the network and for each image by itself,

        L(z) = mean (g(z) - z)^2,    g(z) = P_l x_{l-1} + Q_l f(z, tau_l),

    at most `num_gradient_steps` times or until L < `tolerance`; x_l is the z of the smallest L seen. Unlike the
    iteration z <- g(z) a descent cannot oscillate where the Jacobian of g has eigenvalues below -1. The source
    descends so that the latent depends less on the source prompt, and calls g(z) = z that prompt's disentanglement;
    the equation has no prompt in it, and the method runs on any model.

    The three defaults are those of the released code, which descends by AdamW and keeps the last z; here it is Adam,
    without the decay of z, and the best z.

    Attributes:
      num_gradient_steps: K, at most so many evaluations of a step with a backward pass each.
      learning_rate: of Adam, in units of the state.
      tolerance: of L, a squared rms residual: the default is an rms of 0.0022.
    """

    implicit = True
    needs_gradient = True

    num_gradient_steps: Annotated[int, Field(ge=1)] = 25
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.001
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5e-6

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> Between:
        """DDIM's and 1 to K a step; backward passes are not in it."""
        steps = grid.num_inference_steps - forward_steps
        return Between(2 * steps, (1 + self.num_gradient_steps) * steps)

    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """Descent from DDIM's guess of x_l."""

        def loss(z: Tensor, rows: Tensor) -> Tensor:
            found = problem.move(x[rows], problem.predict(z, move.asked_beyond, rows=rows), move)[0]
            return (found - z).flatten(1).square().mean(1)

        found = descend(
            problem.move(x, problem.predict(x, move.asked), move)[0],
            loss,
            learning_rate=self.learning_rate,
            num_steps=self.num_gradient_steps,
            enough=self.tolerance,
        )
        z = found.best
        return Step(z, problem.implied(x, z, move).eps, residual=found.loss.sqrt())
