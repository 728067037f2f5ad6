"""Forward replacement: the first steps of any method replaced by forward diffusion (paper, Sec. 4)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from taba_core.conventions import ForwardLevel, NetworkTime
from taba_core.diffusion.forward import forward_diffuse
from taba_core.diffusion.grid import TimestepGrid
from taba_core.diffusion.inversion.method import Between, StepMethod
from taba_core.diffusion.inversion.problem import Problem
from taba_core.diffusion.inversion.wrapping import Wrapper, check_steps_can_be_replaced
from taba_core.errors import UsageError


@dataclass(frozen=True)
class ForwardReplaced(Wrapper):
    """Any step method with its first K steps replaced by forward diffusion    (paper, Eq. 5, Sec. 4).

    Only `start` differs: x_0 is noised to `grid.replacement_level` and the inner
    method continues with step K+1. K = 0 is the inner method itself; K = T needs no evaluation.

    Raises:
      UsageError: the inner method owns its trajectory.
    """

    inner: StepMethod
    forward_steps: int
    forward_level: ForwardLevel = "exact"

    def __post_init__(self) -> None:
        """Check that single steps can be replaced."""
        check_steps_can_be_replaced(self.inner, f"forward_steps={self.forward_steps}", "forward_steps=0 or ")
        super().__post_init__()

    @property
    def wrapped(self) -> StepMethod:
        """The inner method."""
        return self.inner

    def start(self, problem: Problem) -> tuple[Tensor, int]:
        """x_0 noised past the first K steps.

        Raises:
          UsageError: no noise was given, or K is not in 0..T.
        """
        levels = "exact" if self.implicit else problem.levels
        level = problem.grid.replacement_level(
            self.forward_steps, self.forward_level, levels, self._network_time(problem)
        )
        if self.forward_steps == 0:
            return self.inner.start(problem)
        if problem.noise is None:
            raise UsageError(
                f"forward_steps={self.forward_steps} needs forward_noise; give standard normal numbers of "
                f"shape {tuple(problem.x_0.shape)}, or forward_steps=0."
            )
        return forward_diffuse(problem.x_0, problem.noise, level), self.forward_steps

    def _network_time(self, problem: Problem) -> NetworkTime:
        """Whether the first step that is left asks at the time of the state it starts from."""
        if not 0 < self.forward_steps < problem.grid.num_inference_steps:
            return problem.network_time
        first = self.inner.moves(problem, self.forward_steps)[0]
        return "source" if first.network.same_mix(first.start) else "target"

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> int | Between:
        """Those of the steps that are not replaced."""
        return self.inner.evaluations(grid, max(forward_steps, self.forward_steps))
