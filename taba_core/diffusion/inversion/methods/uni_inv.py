"""UniInv: each step asked at its own end, predicted by the velocity of the step before."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.inversion.method import Step, StepMethod
from taba_core.diffusion.inversion.problem import Problem
from taba_core.diffusion.inversion.registry import inversion_method
from taba_core.diffusion.inversion.stages import source_moves


class LastVelocity(StepMethod):
    """Methods that ask each step where the f of the step before leads, and differ in what they start with."""

    implicit = True
    made_for_flows = True

    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """Ask where the last f leads; `state` is that f."""
        f = self.first_f(problem, x, move) if state is None else state
        there, _ = problem.move(x, problem.held.ends(f, x, move.start), move)
        ends = problem.predict(there, move.asked_beyond)
        return Step(*problem.move(x, ends, move), problem.held.of(ends))

    @abstractmethod
    def first_f(self, problem: Problem, x: Tensor, move: Transition) -> Tensor:
        """What is held before the first step, from the state it starts at, (B, C, H, W)."""


@inversion_method("uni-inv")
@dataclass(frozen=True)
class UniInv(LastVelocity):
    """One iteration of the sampler's own step, from the velocity of the step before (Jiao et al., arXiv 2504.13109).

    On a flow, with D_l = s_l - s_{l-1}: v_l = v(x_{l-1} + D_l v_{l-1}, s_l), x_l = x_{l-1} + D_l v_l. Elsewhere the
    same with f and the clock of `ends.Held`. Images come back by the sampler. T + 1 evaluations; T where the first
    velocity is zero.

    Attributes:
      first: v_0 is the network's velocity at the image ("network"), or nothing ("zero", the published `zero_init`).
    """

    first: Literal["network", "zero"] = "network"

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> int:
        """One a step, and one for the first velocity."""
        steps = grid.num_inference_steps - forward_steps
        return steps + (steps > 0 and self.first == "network")

    def first_f(self, problem: Problem, x: Tensor, move: Transition) -> Tensor:
        """The network's f of the image, or zero."""
        if self.first == "zero":
            return torch.zeros_like(x)
        asked = source_moves(problem.grid, move.step - 1)[0].asked
        return problem.held.of(problem.predict(x, asked))
