"""Forward diffusion to a level between those of the grid, then any method."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated

from pydantic import Field
from torch import Tensor

from taba_core.diffusion.forward import forward_diffuse
from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.inversion.method import Between, StepMethod
from taba_core.diffusion.inversion.problem import Problem
from taba_core.diffusion.inversion.registry import inversion_method
from taba_core.diffusion.inversion.wrapping import Wrapper, step_method_named
from taba_core.diffusion.level import Level
from taba_core.errors import UsageError


@inversion_method("noise-level")
@dataclass(frozen=True)
class NoiseLevelInversion(Wrapper):
    """Forward replacement to a continuous noise level (singularity skipping, Min et al., arXiv 2602.02193).

    x = alpha x_0 + sigma n at the level of the schedule's path that holds noise of this sigma, alpha = sqrt(1 -
    sigma^2) of a VP schedule; the next level of the grid is entered from there, and the inner method goes on. The
    same sigma is the same treatment on every grid, which a number of steps K is not.

    Attributes:
      sigma: standard deviation of the noise put in.
      inner: name of the method of the steps, with its default options.
    """

    needs_noise = True
    implicit = True
    own_grid = True  # the first step starts between two levels

    sigma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    inner: str = "ddim"

    @cached_property
    def wrapped(self) -> StepMethod:
        """The inner method."""
        return step_method_named(self.inner, "noise-level")

    def start(self, problem: Problem) -> tuple[Tensor, int]:
        """x_0 noised to sigma, past the levels below it."""
        assert problem.noise is not None
        noised = forward_diffuse(problem.x_0, problem.noise, self._level(problem.grid))
        return noised, self._passed(problem.grid)

    def moves(self, problem: Problem, first_step: int) -> list[Transition]:
        """The inner method's on exact levels, the first from the level of sigma."""
        exact = replace(problem, network_time="target", levels="exact")
        first, *others = self.wrapped.moves(exact, first_step)
        return [replace(first, start=self._level(problem.grid)), *others]

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> int | Between:
        """The inner method's from the first level above sigma."""
        return self.wrapped.evaluations(grid, self._passed(grid))

    def _level(self, grid: TimestepGrid) -> Level:
        return grid.schedule.level_of_noise(self.sigma)

    def _passed(self, grid: TimestepGrid) -> int:
        entered = self._level(grid).signal_power
        passed = sum(level.signal_power >= entered for level in grid.upper_levels)
        if passed == grid.num_inference_steps:
            highest = grid.upper_levels[-1].sigma
            raise UsageError(
                f"inversion method 'noise-level', option sigma={self.sigma:g}: the grid's last level is {highest:g}; "
                "use less."
            )
        return passed
