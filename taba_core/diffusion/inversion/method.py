"""What an inversion method is: a small frozen dataclass whose fields are its options.

A `StepMethod` says how one transition is taken; loop, recording, counting and residuals are the driver's. A
`WholeMethod` owns the trajectory: its state is more than one image (coupled or multistep samplers).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from taba_core.conventions import X0Rule
from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.inversion.problem import Dynamics, Problem
from taba_core.diffusion.record import StepRecord
from taba_core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

# Axes: B samples in a batch, C channels, H rows, W columns; T steps.

Shape = tuple[int, ...]
Carried: TypeAlias = "Mapping[str, Tensor]"
Record = Callable[[StepRecord], None]


class Between(NamedTuple):
    """Bounds of a number of evaluations that depends on the data."""

    low: int
    high: int


class Fallback(IntEnum):
    """What a guard did in one step of one image."""

    NONE = 0
    DAMPED = 1
    BEST_ITERATE = 2


@dataclass(frozen=True, eq=False)
class Step:
    """What one transition did.

    Attributes:
      x: state after it, (B, C, H, W).
      eps: prediction that moved the state, same shape.
      state: anything the next step needs; handed to it.
      residual: (B,) rms of P x_{l-1} + Q f(x_l) - x_l (of the step of its own sampler, if it has one) where the
        method knows it for the x it returns, else None.
      fallback: (B,) `Fallback` codes, or None where nothing happened.
    """

    x: Tensor
    eps: Tensor
    state: Any = None
    residual: Tensor | None = None
    fallback: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Whole:
    """What a method that owns the trajectory returns.

    Attributes:
      latent: x̂_T, (B, C, H, W).
      carried: named tensors, batch first, that the method's own sampler needs beside the latent.
      residual: (B, T) as `Step.residual`, or None.
      fallback: (B, T) codes, or None.
    """

    latent: Tensor
    carried: Carried = field(default_factory=dict)
    residual: Tensor | None = None
    fallback: Tensor | None = None


class Method:
    """Base of all inversion methods; subclasses are frozen dataclasses, their fields are options.

    Class attributes:
      name: under which the method is registered.
      needs_noise: reads `Problem.noise`.
      needs_gradient: differentiates through the network; the driver then allows a graph inside
        `torch.enable_grad()`. All other methods run where no graph can be built.
      needs_text: works on a text condition only.
      own_sampler: images come back through `reconstruct`, not through the DDIM sampler.
      own_grid: moves between other levels than those of the sampler's grid.
      own_guidance: is defined by a guidance of its own, so it takes the network's plain predictions.
      keeps_path: its sampler puts the image back on the states that it carries as `states`, under any condition; an
        editor does so with its source alone.
      explicit: takes each step by one prediction at the state that the step starts from, so that what is carried of it
        may be chosen (`InversionOptions.held`).
      made_for_flows: published for flow models; runs on all, and is compared on others where it is asked for by name.
    """

    # Plain attributes of a class that is no dataclass: none of them becomes an option.
    name: str = ""
    needs_noise: bool = False
    needs_gradient: bool = False
    needs_text: bool = False
    own_sampler: bool = False
    own_grid: bool = False
    own_guidance: bool = False
    keeps_path: bool = False
    explicit: bool = False
    made_for_flows: bool = False

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> int | Between:
        """Network evaluations (NFE) of one image's inversion; bounds where they depend on the image.

        Args:
          forward_steps: K, first steps replaced by forward diffusion.
        """
        return grid.num_inference_steps - forward_steps

    def sampling_evaluations(self, grid: TimestepGrid) -> int:
        """NFE of one image's reconstruction."""
        return grid.num_inference_steps

    def carried_shapes(
        self, grid: TimestepGrid, sample_shape: Shape, cond_shapes: Mapping[str, Shape]
    ) -> dict[str, Shape]:
        """Shapes of the carried tensors of one sample, by name, so that a store can make room.

        Args:
          sample_shape: (C, H, W).
          cond_shapes: shapes of one sample's conditioning.
        """
        return {}

    def check_rule(self, rule: X0Rule) -> None:
        """Refuse (UsageError) a rule on the predicted clean image that the method's sampler cannot undo."""

    def reconstruct(self, dynamics: Dynamics, latent: Tensor, carried: Carried, record: Record) -> Tensor:
        """Images by the method's own sampler, (B, C, H, W); only of methods with `own_sampler`.

        Args:
          latent, carried: what the inversion returned.
          record: to be called with each step, l = T..1.
        """
        raise UsageError(f"inversion method '{self.name}' has no sampler of its own; use generate().")


class StepMethod(Method, ABC):
    """A method that sees one transition at a time.

    Class attributes:
      implicit: solves the sampler's own step for its input, so exact levels are used, and target times unless
        `moves` says otherwise, whatever the problem's conventions are.
    """

    implicit: bool = False

    def start(self, problem: Problem) -> tuple[Tensor, int]:
        """State before the first step, and how many steps it has already passed."""
        return problem.x_0, 0

    def moves(self, problem: Problem, first_step: int) -> list[Transition]:
        """Transitions first_step+1..T. Overridden by methods with another time, level or grid."""
        if self.implicit:
            return problem.grid.upward(first_step)
        return problem.grid.upward(
            first_step,
            network_time=problem.network_time,
            levels=problem.levels,
            first_time=problem.first_time,
        )

    def carries(self, problem: Problem) -> Carried:
        """Tensors that the method's own sampler needs beside the latent; {} for most. Shapes as `carried_shapes`."""
        return {}

    @abstractmethod
    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """One move upwards.

        Args:
          x: state at the lower level, (B, C, H, W).
          state: `Step.state` of the step before, None in the first.
        """


class WholeMethod(Method, ABC):
    """A method that owns the trajectory."""

    @abstractmethod
    def invert_whole(self, problem: Problem, record: Record) -> Whole:
        """x_0 to x̂_T.

        Args:
          record: to be called with each step, l = 1..T, so that callers see the path and residuals can be measured.
        """
