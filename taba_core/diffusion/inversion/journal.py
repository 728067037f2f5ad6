"""What an inversion writes down step by step."""

from __future__ import annotations

import torch
from torch import Tensor

from taba_core.diffusion.ddim import move as ddim_move
from taba_core.diffusion.grid import Transition
from taba_core.diffusion.inversion.method import Step
from taba_core.diffusion.inversion.problem import Problem, per_image_rms
from taba_core.diffusion.sampling import OnStep, StepRecord

# Axes: B samples in a batch; T steps.


class Journal:
    """Residuals and fallbacks of the steps so far, and the caller's `on_step`."""

    def __init__(self, problem: Problem, on_step: OnStep | None, measure: bool) -> None:
        self._problem, self._on_step, self._measure = problem, on_step, measure
        shape = (len(problem.x_0), problem.grid.num_inference_steps)
        self.residual = torch.full(shape, torch.nan, dtype=torch.float64)
        self.fallback = torch.zeros(shape, dtype=torch.int8)
        self._known = measure

    def note(self, move: Transition, x: Tensor, step: Step) -> None:
        """Residual and fallback of a step from x."""
        column = move.step - 1
        if step.fallback is not None:
            self.fallback[:, column] = step.fallback.to(torch.int8).cpu()
        if step.residual is not None:
            self.set_residual(column, step.residual)
        elif self._measure:
            self.set_residual(column, _residual(self._problem, move, x, step.x))

    def set_residual(self, column: int, value: Tensor) -> None:
        """Residuals (B,) of step column + 1."""
        self._known = True
        self.residual[:, column] = value.double().cpu()

    def record(self, record: StepRecord) -> None:
        """Show a step to the caller."""
        if self._on_step is not None:
            self._on_step(record)

    def residual_or_none(self) -> Tensor | None:
        """(B, T), or None where neither the method nor a measurement gave one."""
        return self.residual if self._known else None


def _residual(problem: Problem, move: Transition, x: Tensor, x_next: Tensor) -> Tensor:
    """(B,) rms of P (x - S(x_next)), S the sampler's step back; NaN where the upper level has no network time."""
    schedule = problem.grid.schedule
    timestep = (schedule.alpha_bar == move.alpha_bar_to).nonzero()[0]
    if not len(timestep):
        return torch.full((len(x),), torch.nan, dtype=torch.float64)
    eps = problem.denoiser.eps(x_next, float(timestep[0]) * schedule.timestep_scale, problem.cond).to(x.dtype)
    back, _ = ddim_move(x_next, eps, move.alpha_bar_to, move.alpha_bar_from, problem.x0_rule)
    return (move.alpha_bar_to / move.alpha_bar_from) ** 0.5 * per_image_rms(x - back)
