"""DDIM inversion at source times, alone or in the first steps of another method."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.inversion.method import Between, Step, StepMethod
from taba_core.diffusion.inversion.methods.ddim import DDIMInversion
from taba_core.diffusion.inversion.problem import Problem
from taba_core.diffusion.inversion.registry import inversion_method
from taba_core.diffusion.inversion.wrapping import Wrapper, step_method_named


@inversion_method("ddim-source")
@dataclass(frozen=True)
class SourceTimeInversion(DDIMInversion):
    """DDIM inversion with the network at the time of the state it is given.

    x_l = P x_{l-1} + Q eps(x_{l-1}, t_{l-1}) on exact levels, whatever the conventions of the problem; step 1 uses t_1
    where level 0 has no time, or time 0 of a flow with first_time=zero. Where noise dominates (plain areas) one step
    amplifies by r = sigma_l / sigma_{l-1}, the exact factor; target times give only 2 - 1 / r.
    """

    implicit = True

    def moves(self, problem: Problem, first_step: int) -> list[Transition]:
        """Source times on exact levels."""
        return problem.grid.upward(first_step, network_time="source", first_time=problem.first_time)


@inversion_method("source-first")
@dataclass(frozen=True)
class SourceFirstInversion(Wrapper):
    """Source times while the noise-to-signal ratio is small, another method after.

    Attributes:
      switch: steps to levels with sigma_l / alpha_l < switch use source times.
      inner: name of the method of the other steps, with its default options.
    """

    implicit = True

    switch: Annotated[float, Field(ge=0)] = 0.2
    inner: str = "ddim"

    @cached_property
    def wrapped(self) -> StepMethod:
        """The inner method."""
        return step_method_named(self.inner, "source-first")

    def moves(self, problem: Problem, first_step: int) -> list[Transition]:
        """Source times below the switch, target times above; exact levels."""
        moves = problem.grid.upward(first_step)
        source = problem.grid.upward(first_step, network_time="source", first_time=problem.first_time)
        return [source[i] if self._by_source(move) else move for i, move in enumerate(moves)]

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> int | Between:
        """One for each step below the switch, the inner method's for the rest."""
        below = sum(self._by_source(move) for move in grid.upward(forward_steps))
        rest = self.wrapped.evaluations(grid, forward_steps + below)
        return Between(below + rest.low, below + rest.high) if isinstance(rest, Between) else below + rest

    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """A DDIM move at the source time, or the inner method's step."""
        if self._by_source(move):
            return Step(*problem.move(x, problem.predict(x, move.asked), move))
        return self.wrapped.step(problem, x, move, state)

    def _by_source(self, move: Transition) -> bool:
        return move.stop.noise_to_signal < self.switch
