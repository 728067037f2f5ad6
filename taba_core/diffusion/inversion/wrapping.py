"""What methods around other methods share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from taba_core.conventions import HeldQuantity
from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.inversion.method import Between, Carried, Method, Record, Shape, Step, StepMethod
from taba_core.diffusion.inversion.problem import Dynamics, Problem
from taba_core.diffusion.inversion.registry import inversion_method_named
from taba_core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


class Wrapper(StepMethod):
    """A method around another: what it does not say itself is the inner method's. Wrappers are frozen dataclasses."""

    @property
    @abstractmethod
    def wrapped(self) -> StepMethod:
        """The inner method."""

    def __post_init__(self) -> None:
        """Take over what the inner method needs."""
        taken = (
            "needs_noise", "needs_gradient", "needs_text", "own_sampler", "own_guidance", "implicit", "explicit",
        )  # fmt: skip
        for attribute in taken:
            # None of these is a field, so a frozen dataclass does not expect them to be set.
            object.__setattr__(self, attribute, getattr(self, attribute) or getattr(self.wrapped, attribute))
        object.__setattr__(self, "name", self.name or self.wrapped.name)

    def start(self, problem: Problem) -> tuple[Tensor, int]:
        """The inner method's start."""
        return self.wrapped.start(problem)

    def moves(self, problem: Problem, first_step: int) -> list[Transition]:
        """The inner method's moves."""
        return self.wrapped.moves(problem, first_step)

    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """The inner method's step."""
        return self.wrapped.step(problem, x, move, state)

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> int | Between:
        """The inner method's."""
        return self.wrapped.evaluations(grid, forward_steps)

    def sampling_evaluations(self, grid: TimestepGrid) -> int:
        """The inner method's."""
        return self.wrapped.sampling_evaluations(grid)

    def carried_shapes(
        self, grid: TimestepGrid, sample_shape: Shape, cond_shapes: Mapping[str, Shape]
    ) -> dict[str, Shape]:
        """The inner method's."""
        return self.wrapped.carried_shapes(grid, sample_shape, cond_shapes)

    def carries(self, problem: Problem) -> Carried:
        """The inner method's."""
        return self.wrapped.carries(problem)

    def reconstruct(self, dynamics: Dynamics, latent: Tensor, carried: Carried, record: Record) -> Tensor:
        """By the inner method's sampler."""
        return self.wrapped.reconstruct(dynamics, latent, carried, record)


def step_method_named(name: str, wrapper: str) -> StepMethod:
    """The method `name` with default options, for a method that takes over some of its steps.

    Raises:
      UsageError: no such method, or one without single steps on the sampler's grid.
    """
    method = inversion_method_named(name)
    check_steps_can_be_replaced(method, f"inversion method '{wrapper}', option inner={name}")
    assert isinstance(method, StepMethod)
    return method


def check_held(method: Method, held: HeldQuantity) -> None:
    """Refuse another choice of what is carried than the network's own, where steps are not taken by one prediction.

    Raises:
      UsageError: such a method.
    """
    if held != "auto" and not method.explicit:
        raise UsageError(
            f"held={held}: inversion method '{method.name}' solves steps or combines predictions, which it does in "
            "what the network predicts; use held=auto, or method ddim, ddim-source or source-first."
        )


def check_steps_can_be_replaced(method: Method, what: str, way_out: str = "") -> None:
    """Refuse methods without single steps, and those that leave the sampler's grid.

    Args:
      what: what asks for it, as the message begins.
      way_out: what could be changed in place of the method, followed by " or ".

    Raises:
      UsageError: such a method.
    """
    if not isinstance(method, StepMethod):
        raise UsageError(
            f"{what}: inversion method '{method.name}' owns its trajectory, so its first steps cannot be replaced; "
            f"use {way_out}another method."
        )
    if method.own_grid:
        raise UsageError(
            f"{what}: inversion method '{method.name}' moves on a grid of its own, which has no level K of the "
            f"sampler's; use {way_out}another method."
        )
