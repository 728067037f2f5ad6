"""Swap experiments: an inversion that is told the generation's predictions, in its first steps or in one (App. J)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from taba_core.diffusion.ddim import apply_x0_rule
from taba_core.diffusion.ddim import move as ddim_move
from taba_core.diffusion.ends import Ends
from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.inversion.method import Between, Step, StepMethod
from taba_core.diffusion.inversion.problem import Problem
from taba_core.diffusion.inversion.wrapping import Wrapper
from taba_core.errors import UsageError


@dataclass(frozen=True)
class OraclePrediction(Wrapper):
    """The first `num_swapped` predictions replaced by those of the generation, the rest by `inner` (App. J).

    None swaps all. On exact levels without an x_0 rule the swapped steps retrace the sampling path. Where the
    prediction is replaced the network is not evaluated (unless `evaluate_swapped`, as the reference code does and
    ignores the answer), and eps is not re-derived a second time.
    """

    inner: StepMethod
    num_swapped: int | None = None
    evaluate_swapped: bool = False

    @property
    def wrapped(self) -> StepMethod:
        """The inner method."""
        return self.inner

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> int | Between:
        """Those of the steps that are not swapped."""
        T = grid.num_inference_steps
        swapped = T if self.num_swapped is None else min(self.num_swapped, T)
        swapped = 0 if self.evaluate_swapped else swapped
        return self.inner.evaluations(grid, max(forward_steps, swapped))

    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """A DDIM move with the recorded eps_t, or the inner method's step.

        Raises:
          UsageError: the recorded eps_t of a swapped step is missing.
        """
        if self.num_swapped is not None and move.step > self.num_swapped:
            return self.inner.step(problem, x, move, state)
        recorded = _recorded(
            problem,
            move,
            "use the recorded eps_t, and none was given; pass reference={step: eps_t} of the generation to invert().",
        )
        if self.evaluate_swapped:
            problem.predict(x, move.asked)
        rule = "none" if problem.x0_rule == "clip-rederive" else problem.x0_rule
        ends = apply_x0_rule(Ends(x, move.start, recorded.to(x.dtype)), rule)
        return Step(*ddim_move(ends, move.stop))


@dataclass(frozen=True)
class SwappedStep(Wrapper):
    """One step by what the sampler itself carried in it, all others by `inner`: what that step alone costs the latent.

    `Problem.reference` holds f of the swapped step, `Held.implied` of the two states between which the sampler moved.
    """

    inner: StepMethod
    swapped_step: int

    @property
    def wrapped(self) -> StepMethod:
        """The inner method."""
        return self.inner

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> int | Between:
        """One less than the inner method's, of whose steps each takes one."""
        count = self.inner.evaluations(grid, forward_steps)
        skipped = int(forward_steps < self.swapped_step <= grid.num_inference_steps)
        return count if isinstance(count, Between) else count - skipped

    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """A move by the recorded f, or the inner method's step.

        Raises:
          UsageError: the recorded f of the swapped step is missing.
        """
        if move.step != self.swapped_step:
            return self.inner.step(problem, x, move, state)
        recorded = _recorded(
            problem,
            move,
            "carry what the sampler carried, and that was not given; pass reference={step: f} of the generation to "
            "invert().",
        )
        ends = problem.held.ends(recorded.to(x.dtype), x, move.start)
        return Step(*problem.move(x, ends, move))


def _recorded(problem: Problem, move: Transition, purpose: str) -> Tensor:
    """What was recorded of a move, (B, ...). Raises UsageError, which names the purpose, where nothing was."""
    recorded = problem.reference.get(move.step)
    if recorded is None:
        raise UsageError(f"step {move.step} is to {purpose}")
    return recorded
