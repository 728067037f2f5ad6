"""Predictor-corrector inversion: the first steps solved, the others predicted well enough to need one evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.inversion.guarded import solve
from taba_core.diffusion.inversion.method import Step, StepMethod
from taba_core.diffusion.inversion.methods.anderson import anderson_weights
from taba_core.diffusion.inversion.methods.fixed_point import AtLeastOne, NotNegative
from taba_core.diffusion.inversion.problem import Problem
from taba_core.diffusion.inversion.registry import inversion_method

Past = tuple[tuple[float, Tensor], ...]  # (s, f) of the last steps, at most two


@inversion_method("predictor-corrector")
@dataclass(frozen=True)
class PredictorCorrectorInversion(StepMethod):
    """Anderson acceleration in the first steps; a linear prediction and one correction in the rest.

    Every step solves z = g(z) = P_l x_{l-1} + Q_l f(z, t_l), from the prediction z = P_l x_{l-1} + Q_l f, where f is
    the noise or eps - x_0 (`ends.Held`). With s the clock of f (sigma / alpha of the noise), in which DDIM steps are
    Euler steps, f continues those of the two steps before as a line in s; one evaluation then corrects it (an
    implicit Euler step entered by an extrapolated one). The first steps, where the map's eigenvalues are close to 1
    and a line says nothing, get `solved_evaluations` each, mixed by Anderson's weights (`anderson_weights`).

    It inverts what is no part of the model's image as well: of images rounded to 8 bits the latents of plain areas come
    out half as large again as noise. `noise-level` with sigma = 0.02 and inner=predictor-corrector hides the rounding.

    Attributes:
      num_solved: first steps that are solved.
      solved_evaluations: evaluations of each of those.
      rest_evaluations: evaluations of each step after them; two where steps are wide (T of 20 and fewer).
      memory: earlier iterates that a mix takes in.
      ridge: see `aidi-a`.
    """

    implicit = True

    num_solved: AtLeastOne = 3
    solved_evaluations: AtLeastOne = 8
    rest_evaluations: AtLeastOne = 1
    memory: AtLeastOne = 5
    ridge: NotNegative = 1e-12

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> int:
        """num_solved steps of solved_evaluations, the others of rest_evaluations."""
        steps = grid.num_inference_steps - forward_steps
        solved = min(self.num_solved, steps)
        return solved * self.solved_evaluations + (steps - solved) * self.rest_evaluations

    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """Predict, then iterate; `state` is the number of steps taken and (s, f) of the last two."""
        taken, past = state or (0, ())
        held = problem.held
        done = solve(
            problem,
            x,
            move,
            predicted(problem, x, move, past) if past else x,
            self.solved_evaluations if taken < self.num_solved else self.rest_evaluations,
            mix=lambda history: anderson_weights(history, self.ridge),
            window=self.memory + 1,
        )
        found = (held.clock(move.stop), held.implied(x, done.x, move.start, move.stop))
        return Step(done.x, done.eps, (taken + 1, (*past[-1:], found)), fallback=done.fallback)


def predicted(problem: Problem, x: Tensor, move: Transition, past: Past) -> Tensor:
    """The next state by the f on the line through those of the last two (s, f), or by the only one."""
    s, (s_1, f_1) = problem.held.clock(move.stop), past[-1]
    f = f_1
    if len(past) > 1:
        s_0, f_0 = past[0]
        f = f_1 + (f_1 - f_0) * ((s - s_1) / (s_1 - s_0))
    return problem.move(x, problem.held.ends(f, x, move.start), move)[0]
