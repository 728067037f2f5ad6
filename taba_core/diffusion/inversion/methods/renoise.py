"""ReNoise: each step is repeated on its own result, the predictions averaged and regularised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from taba_core.diffusion.ends import Ends
from taba_core.diffusion.forward import forward_diffuse
from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.inversion.method import Step, StepMethod
from taba_core.diffusion.inversion.problem import Problem
from taba_core.diffusion.inversion.registry import inversion_method
from taba_core.diffusion.noise_loss import draw_shifts, patch_divergence, regularized

# Axes: B samples in a batch, C channels, H rows, W columns.

Strength = Annotated[float, Field(ge=0, allow_inf_nan=False)]
GRADIENT_LIMIT = 100.0  # each element of the divergence's gradient is clipped to this
EARLY = 0.25  # network times below 250 of 1000 are the "first steps", with settings of their own
EARLY_STEPS = 5  # at most so many repetitions there
EARLY_AVERAGE, AVERAGE = (0, 5), (8, 10)  # evaluations i in [b, c) whose predictions are averaged


@inversion_method("renoise")
@dataclass(frozen=True)
class ReNoise(StepMethod):
    """Averaged and regularised fixed-point inversion    (Garibi et al., ECCV 2024; the authors' code).

    From z^0 = x_{l-1}, for i = 0..K: e_i = f(z^i, tau_l), z^{i+1} = P_l x_{l-1} + Q_l e_i, f the noise
    or eps - x_0 (`ends.Held`). The mean of the e_i
    over i in [b, c), regularised, makes one last z without a further evaluation; [b, c) is [0, 5) at network times
    below 250 of 1000, where K is at most 5, else [8, 10). Single e_i are regularised from i = b on (without
    averaging from i = 1 on). With K < 8 there is neither average nor regularisation at the later times.

    Regularising is `num_reg_steps` times one step of length lambda_kl down `noise_loss.patch_divergence` from a
    reference prediction (gradient clipped to +-100), then `num_ac_rolls` steps down `noise_loss.autocorrelation`,
    rolls from 0. The reference eps(alpha_l x_0 + sigma_l n, tau_l) has one noise n an image and costs one
    evaluation in every step, as published also where nothing is regularised.

    Attributes:
      num_renoise_steps: K. The code's default is 9, its examples for SD and SDXL take 1. Budgets T (K+1) of about 50
        are (T, K) = (25, 1), (10, 4), (17, 2).
      average: whether predictions are averaged.
      num_reg_steps, num_ac_rolls, lambda_kl, lambda_ac: regularisation; num_reg_steps=0 is none.
      reference: noised, or image: eps(x_0, tau_l), which the code does for SD 1 and 2.
      seed: of n and of the rolls, which belong to (seed, sample, step).
    """

    implicit = True

    num_renoise_steps: Annotated[int, Field(ge=0)] = 9
    average: bool = True
    num_reg_steps: Annotated[int, Field(ge=0)] = 4
    num_ac_rolls: Annotated[int, Field(ge=1)] = 5
    lambda_kl: Strength = 0.065
    lambda_ac: Strength = 20.0
    reference: Literal["noised", "image"] = "noised"
    seed: Annotated[int, Field(ge=0)] = 0

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> int:
        """K + 1 a step, at early times at most 6; one more a step for the reference."""
        extra = 1 + (self.num_reg_steps > 0)
        return sum(self._repetitions(grid, move) + extra for move in grid.upward(forward_steps))

    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """One step, repeated on its own result. `state` is the noise n of the reference."""
        noise, reference, held = state, None, problem.held
        if self.num_reg_steps:
            noise = problem.normal(x, seed=self.seed, stream="renoise") if state is None else state
            reference = self._reference(problem, noise, move)
        first, stop = EARLY_AVERAGE if _is_early(problem.grid, move) else AVERAGE
        z, mean, last = x, None, self._repetitions(problem.grid, move)
        for i in range(last + 1):
            ends = problem.predict(z, move.asked_beyond)
            if self.average and first <= i < stop:
                j, f = i - first, held.of(ends)
                mean = f if mean is None else j / (j + 1) * mean + f / (j + 1)
            if i == last and mean is not None:
                break  # the mean moves the state instead
            if i >= first or (not self.average and i > 0):
                ends = self._regularized(problem, ends, reference, move, draw=i)
            z, eps = problem.move(x, ends, move)
        if mean is not None:
            ends = self._regularized(problem, held.ends(mean, z, move.stop), reference, move, draw="mean")
            z, eps = problem.move(x, ends, move)
        return Step(z, eps, state=noise)

    def _repetitions(self, grid: TimestepGrid, move: Transition) -> int:
        return min(EARLY_STEPS, self.num_renoise_steps) if _is_early(grid, move) else self.num_renoise_steps

    def _reference(self, problem: Problem, noise: Tensor, move: Transition) -> Tensor:
        x = problem.x_0
        if self.reference == "noised":
            x = forward_diffuse(x, noise, move.stop)
        return problem.predict(x, move.asked_beyond).eps

    def _regularized(
        self, problem: Problem, ends: Ends, reference: Tensor | None, move: Transition, draw: int | str
    ) -> Ends:
        """The prediction with regularised noise; at alpha = 0 the noise is the state itself, and nothing is done."""
        if reference is None or not move.stop.signal_power:
            return ends
        wanted, eps = reference, ends.eps
        shifts = draw_shifts(
            problem.sample_ids,
            tuple(eps.shape[1:]),
            draws=self.num_reg_steps * self.num_ac_rolls,
            lowest=0,
            seed=self.seed,
            stream=f"renoise/{move.step}/{draw}",
        ).unflatten(1, (self.num_reg_steps, self.num_ac_rolls))

        def reduce_divergence(eps: Tensor) -> Tensor:
            gradient = patch_divergence(eps, wanted)[1].clamp(-GRADIENT_LIMIT, GRADIENT_LIMIT)
            return eps - (self.lambda_kl * gradient).to(eps.dtype)

        white = regularized(
            eps,
            shifts,
            lambda_ac=self.lambda_ac,
            reduce_divergence=reduce_divergence if self.lambda_kl else None,
            divergence_first=True,
        )
        return Ends(ends.x, move.stop, white)


def _is_early(grid: TimestepGrid, move: Transition) -> bool:
    """Whether a network time lies in the first quarter of the schedule."""
    return move.network_time < EARLY * grid.schedule.duration
