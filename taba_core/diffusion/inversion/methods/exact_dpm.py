"""Exact inversion of DPM-Solvers of order 1 and 2 (Hong et al., CVPR 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from taba_core.diffusion.ddim import apply_x0_rule
from taba_core.diffusion.ends import Ends
from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.inversion.forward_step import ForwardStep
from taba_core.diffusion.inversion.method import Between, Carried, Record, Step, StepMethod
from taba_core.diffusion.inversion.methods.fixed_point import AtLeastOne, NotNegative
from taba_core.diffusion.inversion.problem import Dynamics, Problem
from taba_core.diffusion.inversion.registry import inversion_method
from taba_core.diffusion.level import Level
from taba_core.diffusion.sampling import StepRecord

# Axes: B samples in a batch, C channels, H rows, W columns.

# The published stop is a summed squared residual of 1e-3 for a batch of one latent of 4x64x64 values.
TOLERANCE = math.sqrt(1e-3 / (4 * 64 * 64))
RATE = 10.0  # the published step size of order 2 is 10 / (training timestep)
FINE = 10  # training steps of a sub-step of the coarse pass


@inversion_method("exact-dpm-1")
@dataclass(frozen=True)
class ExactDPM1Inversion(StepMethod):
    """DDIM's steps S solved by x <- x - rho (S(x) - x_{l-1})    (Hong et al., CVPR 2024, Algorithm 1).

    From DDIM inversion's x. The error's gain is 1 - rho f with f the sampling gain: slow where f is small (plain areas,
    first step).

    Attributes:
      rho: step size, after a warm-up of 20 iterations; halved after 20 iterations on a plateau.
      tolerance: an image stops at rms(S(x) - x_{l-1}) <= tolerance.
      max_iterations: evaluations of a step at most, beside the first.
    """

    implicit = True

    rho: Annotated[float, Field(gt=0, le=1)] = 0.5
    tolerance: NotNegative = TOLERANCE
    max_iterations: AtLeastOne = 500

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> Between:
        """The first guess and at least one check a step."""
        steps = grid.num_inference_steps - forward_steps
        return Between(2 * steps, steps * (1 + self.max_iterations))

    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """Solve one DDIM step."""
        guess, _ = problem.move(x, problem.predict(x, move.asked), move)
        return solved(problem, x, guess, move, ForwardStep(self.rho, self.tolerance, self.max_iterations))


@inversion_method("exact-dpm-2")
@dataclass(frozen=True)
class ExactDPM2Inversion(StepMethod):
    """Steps of DPM-Solver++(2M) solved for their input    (Hong et al., CVPR 2024, Algorithm 2).

    The sampler is the method's own (`reconstruct`): second order but for its first and last step. Inner step
    t < s < r (r noisiest): DDIM inversion in sub-steps of 10 training steps gives y_s and y_r,
    D = (m(y_s, s) - m(y_r, r)) (lambda_t - lambda_s) / (lambda_s - lambda_r), and
    S(x) = order-1 step of x - alpha_t (exp(-h) - 1) D / 2 is solved from y_s. Exact up to the error of D. From a
    level r of pure noise (lambda_r infinite) D is 0, in both directions.

    Attributes:
      tolerance, max_iterations: as `exact-dpm-1`.
    """

    implicit = True
    own_sampler = True

    tolerance: NotNegative = TOLERANCE
    max_iterations: AtLeastOne = 500

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> Between:
        """Coarse pass, two predictions for D and at least one check in inner steps; a guess and a check at the ends."""
        T = grid.num_inference_steps
        fixed = sum(self._fixed(grid, step) for step in range(forward_steps + 1, T + 1))
        steps = T - forward_steps
        return Between(fixed + steps, fixed + steps * self.max_iterations)

    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """Solve one step of the sampler."""
        grid, T = problem.grid, problem.grid.num_inference_steps
        solver = ForwardStep(
            min(1.0, RATE / max(_tau(grid, move.step), 1)), self.tolerance, self.max_iterations
        )
        if move.step in (1, T):
            if move.step == 1:
                solver = ForwardStep(1.0, self.tolerance, self.max_iterations)
            guess, _ = problem.move(x, problem.predict(x, move.asked), move)
            return solved(problem, x, guess, move, solver)
        y_s = _coarse(problem, x, grid, move.step)
        y_r = _coarse(problem, y_s, grid, move.step + 1)
        frozen = _second_order(problem, y_s, y_r, move)
        plain = ForwardStep(solver.rho, self.tolerance, self.max_iterations, scheduled=False)
        return solved(problem, x, y_s, move, plain, frozen)

    def reconstruct(self, dynamics: Dynamics, latent: Tensor, carried: Carried, record: Record) -> Tensor:
        """DPM-Solver++(2M), T evaluations: order 1 in the first and the last step."""
        x, before = latent, None
        T = dynamics.grid.num_inference_steps
        for move in dynamics.grid.downward():
            ends = dynamics.predict(x, move.asked)
            x_next, moved_by = dynamics.move(x, ends, move)
            now = (move.start.log_snr, _clean(dynamics, ends))
            if before is not None and 1 < move.step < T:
                x_next = x_next + _correction(now, before, move.stop)
            record(StepRecord(move.step, x, moved_by, x_next))
            x, before = x_next, now
        return x

    def _fixed(self, grid: TimestepGrid, step: int) -> int:
        """Evaluations of a step before its iteration."""
        if step in (1, grid.num_inference_steps):
            return 1
        return len(_fine(grid, step)) + len(_fine(grid, step + 1)) + 2


def solved(
    problem: Problem,
    x: Tensor,
    guess: Tensor,
    move: Transition,
    solver: ForwardStep,
    correction: Tensor | None = None,
) -> Step:
    """x_l with S(x_l) = x, S the DDIM step (plus a constant correction), from a first guess."""

    def step_back(z: Tensor, rows: Tensor) -> Tensor:
        back, _ = problem.move(z, problem.predict(z, move.asked_beyond, rows=rows), move.reversed())
        return back if correction is None else back + correction[rows]

    found, gap, code = solver.solve(step_back, x, guess)
    p, _ = problem.held.coefficients(move.start, move.stop)
    return Step(found, problem.implied(x, found, move).eps, residual=p * gap, fallback=code)


def _second_order(problem: Problem, y_s: Tensor, y_r: Tensor, move: Transition) -> Tensor:
    """The second-order term of the sampling step from level s = l to t = l-1, from y_s and y_r."""
    above = problem.grid.upward(move.step)[0]
    clean_s, clean_r = (
        _clean(problem, problem.predict(y, level)) for y, level in ((y_s, move.stop), (y_r, above.stop))
    )
    return _correction((move.stop.log_snr, clean_s), (above.stop.log_snr, clean_r), move.start)


def _correction(now: tuple[float, Tensor], before: tuple[float, Tensor], t: Level) -> Tensor:
    """-alpha_t (exp(-h) - 1) D / 2 with D = (m_s - m_r) h / (lambda_s - lambda_r), h = lambda_t - lambda_s."""
    (lambda_s, clean_s), (lambda_r, clean_r) = now, before
    h = t.log_snr - lambda_s
    slope = (clean_s - clean_r) * (h / (lambda_s - lambda_r))
    return -0.5 * t.alpha * math.expm1(-h) * slope


def _clean(dynamics: Dynamics, ends: Ends) -> Tensor:
    return apply_x0_rule(ends, dynamics.x0_rule).x_0


def _coarse(problem: Problem, x: Tensor, grid: TimestepGrid, step: int) -> Tensor:
    """DDIM inversion of step `step` at target times, in sub-steps of 10 training steps."""
    level = grid.lower_levels[step - 1]
    for timestep in _fine(grid, step):
        target = grid.schedule.level(timestep)
        x, _ = problem.move(
            x, problem.predict(x, level.at(target.time)), Transition(step, level, target, target)
        )
        level = target
    return x


def _fine(grid: TimestepGrid, step: int) -> list[int]:
    """Training timesteps of the sub-steps of an inner step, ascending, the level of the step last."""
    low, high = int(grid.source_timesteps[step - 1]), _tau(grid, step)
    return [*range(low + FINE, high, FINE), high]


def _tau(grid: TimestepGrid, step: int) -> int:
    return int(grid.timesteps[step - 1])
