"""Pix2Pix-Zero: DDIM inversion whose predicted noise is pulled towards white Gaussian noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.inversion.method import Step, StepMethod
from taba_core.diffusion.inversion.problem import Problem
from taba_core.diffusion.inversion.registry import inversion_method
from taba_core.diffusion.noise_loss import draw_shifts, effective_strength, gaussian_divergence, regularized
from taba_core.errors import UsageError

# Axes: B samples in a batch, C channels, H rows, W columns.

Strength = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@inversion_method("pix2pix-zero")
@dataclass(frozen=True)
class Pix2PixZero(StepMethod):
    """DDIM inversion with regularised predictions    (Parmar et al., SIGGRAPH 2023, Sec. 3.1).

    Between prediction and DDIM move, `num_reg_steps` times: `num_ac_rolls` steps
    eps <- eps - lambda_ac grad L_ac(eps) / num_ac_rolls, then one step eps <- eps - lambda_kl grad L_kl(eps), with
    L_ac = `noise_loss.autocorrelation` and L_kl = `noise_loss.gaussian_divergence`. The prediction is detached:
    nothing is differentiated through the network. With both lambdas 0 this is DDIM inversion. Unlike the published
    codes, each image has its own loss and rolls, so a batch equals its items.

    Attributes:
      lambda_ac, lambda_kl, num_reg_steps, num_ac_rolls: as published.
      reading: port = the pipeline of diffusers: the steps of DDIM inversion, rolls from 0. official = the authors'
        code: rolls from 1, and T-2 steps on levels of its own (`_official_moves`).
      effective_lambda: multiply the lambdas by numel / (4 * 64 * 64). Gradients of mean losses fall as 1/numel, so
        the published values act on a 4x128x128 latent a quarter as much as on the 4x64x64 they were chosen for.
      seed: of the rolls, which belong to (seed, sample, step).
    """

    lambda_ac: Strength = 20.0
    lambda_kl: Strength = 20.0
    num_reg_steps: Annotated[int, Field(ge=0)] = 5
    num_ac_rolls: Annotated[int, Field(ge=1)] = 5
    reading: Literal["port", "official"] = "port"
    effective_lambda: bool = False
    seed: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        """The authors' code leaves the sampler's levels."""
        object.__setattr__(self, "own_grid", self.reading == "official")

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> int:
        """One a step; the official reading drops the first and the last."""
        dropped = 2 if self.reading == "official" else 0
        return grid.num_inference_steps - forward_steps - dropped

    def moves(self, problem: Problem, first_step: int) -> list[Transition]:
        """Those of DDIM inversion, or of the authors' code.

        Raises:
          UsageError: the official reading on fewer than three steps.
        """
        if self.reading == "official":
            return _official_moves(problem.grid)
        return super().moves(problem, first_step)

    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """One DDIM move upwards with the regularised prediction."""
        ends = problem.predict(x, move.asked)
        eps = ends.eps
        scale = effective_strength(1.0, eps.shape[1:]) if self.effective_lambda else 1.0
        shifts = draw_shifts(
            problem.sample_ids,
            tuple(eps.shape[1:]),
            draws=self.num_reg_steps * self.num_ac_rolls,
            lowest=1 if self.reading == "official" else 0,
            seed=self.seed,
            stream=f"pix2pix-zero/{move.step}",
        ).unflatten(1, (self.num_reg_steps, self.num_ac_rolls))

        def reduce_divergence(eps: Tensor) -> Tensor:
            return eps - (self.lambda_kl * scale * gaussian_divergence(eps)[1]).to(eps.dtype)

        white = regularized(
            eps,
            shifts,
            lambda_ac=self.lambda_ac * scale,
            reduce_divergence=reduce_divergence if self.lambda_kl else None,
            divergence_first=False,
        )
        return Step(*problem.move(x, ends if white is eps else white, move))


def _official_moves(grid: TimestepGrid) -> list[Transition]:
    """Steps 2..T-1 of the authors' code: asked at tau_l, moved from timestep tau_l - 1 to tau_l + floor(N/T) - 1.

    The clean image is taken to be at the first of these levels. On the grid 1, 21, ..., 981 the times are 21 to 961
    and the levels 20 to 980.

    Raises:
      UsageError: fewer than three steps.
    """
    T, level = grid.num_inference_steps, grid.schedule.level
    if T < 3:
        raise UsageError(
            f"pix2pix-zero, reading=official drops the first and last of T={T} steps; use 3 or more."
        )
    stride = grid.schedule.num_train_timesteps // T
    inner = [int(grid.timesteps[step - 1]) for step in range(2, T)]
    return [
        Transition(step, level(tau - 1), level(tau + stride - 1), level(tau))
        for step, tau in enumerate(inner, start=2)
    ]
