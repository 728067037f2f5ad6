"""DDIM inversion: the unknown next state replaced by the current one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taba_core.diffusion.grid import Transition
from taba_core.diffusion.inversion.method import Step, StepMethod
from taba_core.diffusion.inversion.problem import Problem
from taba_core.diffusion.inversion.registry import inversion_method

if TYPE_CHECKING:
    from torch import Tensor


@inversion_method("ddim")
@dataclass(frozen=True)
class DDIMInversion(StepMethod):
    """DDIM inversion: the prediction of the unknown next state replaced by that of the current one.

    x_l = alpha_l x_0(x_{l-1}, t) + sigma_l eps(x_{l-1}, t), which where the noise is predicted is
    x_l = P_l x_{l-1} + Q_l eps(x_{l-1}, t), P_l = alpha_l / alpha_{l-1}, Q_l = sigma_l - P_l sigma_{l-1}
    (paper, Eq. 3; Song et al. 2021; Dhariwal & Nichol 2021, App. F). t is the problem's convention: that of
    level l (target), or of level l-1 (source). A network that predicts v is read at the level of its input x_{l-1}, as
    diffusers' DDIMInverseScheduler reads it; the problem's `held` may say otherwise.
    """

    explicit = True

    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """One DDIM move upwards."""
        return Step(*problem.move(x, problem.predict(x, move.asked), move))
