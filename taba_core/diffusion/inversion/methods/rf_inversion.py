"""RF-Inversion: the velocity is drawn towards a noise on the way up, and towards the image on the way down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from taba_core.diffusion.ends import Ends
from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.inversion.method import Carried, Record, Shape, Step, StepMethod
from taba_core.diffusion.inversion.problem import Dynamics, Problem
from taba_core.diffusion.inversion.registry import inversion_method
from taba_core.diffusion.inversion.stages import source_moves
from taba_core.diffusion.level import Level
from taba_core.diffusion.sampling import StepRecord
from taba_core.errors import UsageError

# Axes: B samples in a batch, C channels, H rows, W columns; T steps.

Share = Annotated[float, Field(ge=0, le=1)]


@inversion_method("rf-inversion")
@dataclass(frozen=True)
class RFInversion(StepMethod):
    """RF-Inversion: controlled Euler steps (Rout et al., arXiv 2410.10792).

    With one drawn noise y an image, on a flow:

        up:    x_l = x_{l-1} + D_l ((1 - gamma) v(x_{l-1}, s_{l-1}) + gamma (y - x_{l-1}) / (1 - s_{l-1})),
        down:  x_{l-1} = x_l - D_l ((1 - eta) v(x_l, s_l) + eta (x_l - x_0) / s_l).

    The second velocity is that of the line to y, or to the image; elsewhere the same with f of `ends.Held`. gamma = 0
    is inversion at source times, gamma = 1 gives y. The latent is mostly y: with small steps all of it, for every gamma
    above 0. What brings the image back is x_0 itself, which is carried beside the latent. T evaluations each way.

    Attributes:
      gamma: weight of the noise on the way up.
      eta: weight of the image in the first sampling steps; 0 samples as usual, and carries nothing.
      controlled_share: share of the T sampling steps, from the noise, that eta is in; rounded down.
      times: "grid" as above. "published": what the authors' code does on the way up (flows only): the widths of the
        steps are those from the noise end, and network and control are told the time (l - 1) / (T + 1).
    """

    needs_noise = True
    implicit = True
    made_for_flows = True

    gamma: Share = 0.5
    eta: Share = 0.9
    controlled_share: Share = 0.25
    times: Literal["grid", "published"] = "grid"

    def __post_init__(self) -> None:
        """Images need their own sampler where eta is in it; the published times leave the grid."""
        object.__setattr__(self, "own_sampler", self.eta > 0)
        object.__setattr__(self, "own_grid", self.times == "published")

    def moves(self, problem: Problem, first_step: int) -> list[Transition]:
        """Source times on the sampler's levels, or the published ones.

        Raises:
          UsageError: published times where the schedule is no flow.
        """
        if self.times == "grid":
            return source_moves(problem.grid, first_step)
        if not problem.grid.schedule.is_flow:
            raise UsageError(
                f"inversion method '{self.name}', option times=published: these are times of a flow, and the noise "
                "schedule is none; use times=grid."
            )
        return _published_moves(problem.grid)

    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """One step towards the noise."""
        assert problem.noise is not None
        told = move.network if self.times == "published" else move.asked
        ends = problem.predict(x, told)
        return Step(*_controlled(problem, x, move, ends, Ends(x, told, problem.noise), self.gamma))

    def carried_shapes(
        self, grid: TimestepGrid, sample_shape: Shape, cond_shapes: Mapping[str, Shape]
    ) -> dict[str, Shape]:
        """`image`, the state that is inverted; nothing where eta is 0."""
        return {"image": sample_shape} if self.own_sampler else {}

    def carries(self, problem: Problem) -> Carried:
        """The image."""
        return {"image": problem.x_0} if self.own_sampler else {}

    def reconstruct(self, dynamics: Dynamics, latent: Tensor, carried: Carried, record: Record) -> Tensor:
        """Steps towards the image first, plain ones after."""
        x, x_0 = latent, carried["image"].to(latent)
        controlled = int(self.controlled_share * dynamics.grid.num_inference_steps)
        for taken, move in enumerate(dynamics.grid.downward()):
            ends = dynamics.predict(x, move.asked)
            eta = self.eta if taken < controlled else 0.0
            image = Ends(x, move.start, (x - move.start.alpha * x_0) / move.start.sigma, x_0)
            x_to, eps = _controlled(dynamics, x, move, ends, image, eta)
            record(StepRecord(move.step, x, eps, x_to))
            x = x_to
        return x


def _controlled(
    dynamics: Dynamics, x: Tensor, move: Transition, ends: Ends, wanted: Ends, weight: float
) -> tuple[Tensor, Tensor]:
    """The move along a mean of what the network says and of the line that leads to what is wanted."""
    if not weight:
        return dynamics.move(x, ends, move)
    held = dynamics.held
    f = (1 - weight) * held.of(ends) + weight * held.of(wanted)
    return dynamics.move(x, held.ends(f, x, move.start), move)


def _published_moves(grid: TimestepGrid) -> list[Transition]:
    """The moves of the authors' code."""
    T, duration = grid.num_inference_steps, grid.schedule.duration
    widths = np.diff([level.sigma for level in grid.levels])[::-1]
    s = np.minimum(np.concatenate([[0.0], np.cumsum(widths)]), 1.0)
    told = np.arange(T) / (T + 1)
    return [
        Transition(i + 1, Level.flow(float(s[i])), Level.flow(float(s[i + 1])), Level.flow(t, t * duration))
        for i, t in enumerate(told.tolist())
    ]
