"""What methods share that ask a network more than once on the way from one level to the next.

They are integrators of dy = f d(clock), with y = x / scale and f what moves between levels carry (`ends.Held`): on a
straight flow y is the state itself, the clock is s and f the velocity, so they are the integrators of flow models as
published. On other paths the same rules hold in y.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from taba_core.conventions import FirstTime
from taba_core.diffusion.ends import Ends, Held
from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.inversion.method import Carried, Record, Step, StepMethod
from taba_core.diffusion.inversion.problem import Dynamics, Problem
from taba_core.diffusion.level import Level
from taba_core.diffusion.sampling import StepRecord

# Axes: B samples in a batch, C channels, H rows, W columns; T steps.


def source_moves(grid: TimestepGrid, first_step: int = 0) -> list[Transition]:
    """Moves upwards with the network at the time of the state they start from.

    The clean image is asked at time 0 on a flow, as published; elsewhere level 0 has no time, and that of level 1 is
    taken.
    """
    first_time: FirstTime = "zero" if grid.schedule.is_flow else "one"
    return grid.upward(first_step, network_time="source", first_time=first_time)


def level_between(grid: TimestepGrid, held: Held, start: Level, stop: Level) -> Level | None:
    """The level half of the way between two levels, by the clock of what is held, with a time to ask a network at.

    A flow is continuous, so the level is exactly half of the way. Elsewhere it is the training timestep nearest to it
    that lies strictly between the two; where none does, it is `stop`, or None if `stop` has no time.
    """
    schedule = grid.schedule
    if schedule.is_flow:
        s = 0.5 * (start.sigma + stop.sigma)
        return Level.flow(s, s * schedule.duration)
    a, b = held.clock(start), held.clock(stop)
    alpha, sigma = np.sqrt(schedule.signal_power), np.sqrt(schedule.noise_power)
    with np.errstate(divide="ignore"):  # pure noise has no finite clock where the noise is held
        ratio = np.sqrt(schedule.noise_power / schedule.signal_power)
    clock = ratio if held is Held.NOISE else sigma / (alpha + sigma)
    inside = np.flatnonzero((clock > min(a, b)) & (clock < max(a, b)))
    if not len(inside):
        return stop if stop.time is not None else None
    return schedule.level(int(inside[np.abs(clock[inside] - 0.5 * (a + b)).argmin()]))


def second_order(
    dynamics: Dynamics, x: Tensor, move: Transition, f: Tensor, between: Level
) -> tuple[Ends, Tensor]:
    """The line of a second-order step, and the f found at the level between; one evaluation.

    f_2 = f(x moved by f to `between`) and the step goes along (1 - w) f + w f_2, w = 1 / (2 theta), with theta the
    share of the step's clock at `between`: the midpoint rule at theta = 1/2, Heun's rule at theta = 1.

    Args:
      x: state at the first level of the move, (B, C, H, W).
      f: what is held there, same shape.
    """
    held = dynamics.held
    there, _ = dynamics.move(x, held.ends(f, x, move.start), replace(move, stop=between))
    second = held.of(dynamics.predict(there, between))
    start = held.clock(move.start)
    w = 0.5 * (held.clock(move.stop) - start) / (held.clock(between) - start)
    return held.ends((1 - w) * f + w * second, x, move.start), second


class OwnIntegrator(StepMethod):
    """A method that integrates in both directions by one rule; images come back by its own sampler.

    Both directions are asked at the levels of the sampler's grid and between them, whatever the problem's conventions
    are. Up and down differ by the error of the rule: none of them is an exact inverse.
    """

    own_sampler = True
    implicit = True
    made_for_flows = True

    def moves(self, problem: Problem, first_step: int) -> list[Transition]:
        """Source times on exact levels."""
        return source_moves(problem.grid, first_step)

    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """One step upwards."""
        x_to, eps, state = self.integrate(problem, x, move, state)
        return Step(x_to, eps, state)

    def reconstruct(self, dynamics: Dynamics, latent: Tensor, carried: Carried, record: Record) -> Tensor:
        """The same rule downwards, started anew at the latent."""
        x, state = latent, None
        for move in dynamics.grid.downward():
            x_to, eps, state = self.integrate(dynamics, x, move, state)
            record(StepRecord(move.step, x, eps, x_to))
            x = x_to
        return x

    @abstractmethod
    def integrate(
        self, dynamics: Dynamics, x: Tensor, move: Transition, state: Any
    ) -> tuple[Tensor, Tensor, Any]:
        """One step of either direction: the state after it, the noise that moved it, and what the next step needs."""


class TwoStage(OwnIntegrator):
    """Second-order rules of two fresh predictions a step, which differ in the level of the second."""

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> int:
        """2 (T - K)."""
        return 2 * (grid.num_inference_steps - forward_steps)

    def sampling_evaluations(self, grid: TimestepGrid) -> int:
        """Two a step; one where there is no level to ask at a second time."""
        held = Held.VELOCITY  # whether there is such a level does not depend on what is held
        return sum(1 + (self.second_level(grid, held, move) is not None) for move in grid.downward())

    def integrate(
        self, dynamics: Dynamics, x: Tensor, move: Transition, state: Any
    ) -> tuple[Tensor, Tensor, Any]:
        """Ask at the start and at the second level; an Euler step where there is none."""
        ends = dynamics.predict(x, move.asked)
        between = self.second_level(dynamics.grid, dynamics.held, move)
        if between is not None:
            ends, _ = second_order(dynamics, x, move, dynamics.held.of(ends), between)
        return *dynamics.move(x, ends, move), None

    @abstractmethod
    def second_level(self, grid: TimestepGrid, held: Held, move: Transition) -> Level | None:
        """Where the second prediction is made, with its time."""
