"""What an inversion measures and notes step by step: residuals, fallbacks, and the caller's own records."""

from __future__ import annotations

import torch
from torch import Tensor

from taba_core.diffusion.denoiser import predict_ends
from taba_core.diffusion.grid import Transition
from taba_core.diffusion.inversion.method import Step
from taba_core.diffusion.inversion.problem import Problem, per_image_rms
from taba_core.diffusion.sampling import OnStep, StepRecord

# Axes: B samples in a batch; T steps.


class Measurements:
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
    if move.stop.time is None:
        return torch.full((len(x),), torch.nan, dtype=torch.float64)
    ends = predict_ends(problem.denoiser, x_next, move.stop, problem.cond)
    back, _ = problem.move(x_next, ends, move.reversed())
    return problem.held.squared_ratio(move.start, move.stop) ** 0.5 * per_image_rms(x - back)
