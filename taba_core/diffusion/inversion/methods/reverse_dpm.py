"""DPM-Solver run upwards without solving anything: diffusers' DPMSolverMultistepInverseScheduler."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from taba_core.diffusion.ddim import apply_x0_rule
from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.inversion.method import Step, StepMethod
from taba_core.diffusion.inversion.problem import Problem
from taba_core.diffusion.inversion.registry import inversion_method

LOWER_ORDER_BELOW = 15  # diffusers lower_order_final: the last of fewer steps is of order 1


@inversion_method("reverse-dpm")
@dataclass(frozen=True)
class ReverseDPMInversion(StepMethod):
    """DPM-Solver++ of order 1 or 2 (midpoint, multistep) upwards, the network at source times.

    With lambda = log(alpha / sigma), h = lambda_l - lambda_{l-1}, m the predicted x_0 at level l-1:
    x_l = (sigma_l / sigma_{l-1}) x_{l-1} - alpha_l (exp(-h) - 1) (m_{l-1} + D / 2),
    D = (m_{l-1} - m_{l-2}) h / (lambda_{l-1} - lambda_{l-2}), D = 0 at order 1, in the first step, after a clean
    level 0 and up to pure noise (lambda infinite). Order 1 is `ddim-source` on the same levels.

    Attributes:
      order: 1 or 2.
      grid: levels. "linspace" and "leading" are the solver's own T + 1 points on 0..N-1, the last one moved to
        N - 1 (diffusers; "leading" starts at the sampler's first timestep); "sampler" those of the sampler. On its
        own grid the clean image is taken to be at the first point, and sampling back by DDIM errs by the difference.
    """

    implicit = True

    order: Literal[1, 2] = 2
    grid: Literal["leading", "linspace", "sampler"] = "leading"

    def __post_init__(self) -> None:
        """Only the solver's own grids leave the sampler's."""
        object.__setattr__(self, "own_grid", self.grid != "sampler")

    def moves(self, problem: Problem, first_step: int) -> list[Transition]:
        """Source times on the chosen levels."""
        if self.grid == "sampler":
            return problem.grid.upward(first_step, network_time="source", first_time=problem.first_time)
        times, schedule = own_timesteps(problem.grid, self.grid), problem.grid.schedule
        levels = [schedule.level(int(timestep)) for timestep in times]
        return [Transition(l, levels[l - 1], levels[l], levels[l - 1]) for l in range(1, len(times))]

    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """One step; `state` is (lambda, m) of the level before."""
        ends = problem.predict(x, move.asked)
        x_next, moved_by = problem.move(x, ends, move)
        clean = apply_x0_rule(ends, problem.x0_rule).x_0
        now, ahead = move.start.log_snr, move.stop.log_snr
        T = problem.grid.num_inference_steps
        lowered = T < LOWER_ORDER_BELOW and move.step == T
        second = self.order == 2 and state is not None and not lowered
        if second and math.isfinite(state[0]) and math.isfinite(ahead):
            h = ahead - now
            slope = (clean - state[1]) * (h / (now - state[0]))
            x_next = x_next - 0.5 * move.stop.alpha * math.expm1(-h) * slope
        return Step(x_next, moved_by, (now, clean))


def own_timesteps(grid: TimestepGrid, spacing: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The T + 1 ascending training timesteps of the solver's own grid."""
    N, T = grid.schedule.num_train_timesteps, grid.num_inference_steps
    if spacing == "linspace":
        points = np.linspace(0, N - 1, T + 1).round().astype(np.int64)
    else:
        points = np.arange(T + 1) * (N // (T + 1)) + int(grid.timesteps[0])
    points[-1] = N - 1
    return points
