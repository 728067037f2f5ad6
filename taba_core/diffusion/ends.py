"""What a prediction says of a state: the two ends of the line it lies on, and what of them is carried to other levels.

Plain arithmetic on tensors or arrays; torch itself is not needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from taba_core.diffusion.level import Level

if TYPE_CHECKING:
    from torch import Tensor

# Axes: B samples in a batch, C channels, H rows, W columns. Coefficients are Python floats (float64).


@dataclass(frozen=True, eq=False)
class Ends:
    """The clean image and the noise of which a state is made: x = alpha x_0 + sigma eps.

    `x_0, eps = ends` unpacks them. A network that predicts the noise gives eps alone, and x_0 follows where alpha >
    0; a network that predicts v, x_0 or a velocity gives both without a division.

    Attributes:
      x: the state, (B, C, H, W).
      level: alpha and sigma of the state, and the time the network was asked at.
      eps: predicted noise, same shape.
      clean: predicted clean image, same shape; None where it is to follow from x and eps.
    """

    x: Tensor
    level: Level
    eps: Tensor
    clean: Tensor | None = None

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.x_0, self.eps))

    @property
    def x_0(self) -> Tensor:
        """The predicted clean image, (x - sigma eps) / alpha where it is not given    (paper, Eq. 1).

        Raises:
          ValueError: alpha is 0, and only the noise was predicted.
        """
        if self.clean is not None:
            return self.clean
        check_holds_image(self.level)
        return (self.x - self.level.sigma * self.eps) / self.level.alpha

    def rows(self, rows: Tensor) -> Ends:
        """The ends of some samples of the batch; rows is (R,) int64."""
        clean = None if self.clean is None else self.clean[rows]
        return Ends(self.x[rows], self.level, self.eps[rows], clean)


def check_holds_image(level: Level) -> None:
    """Raises ValueError where a prediction of the noise says nothing of the image: alpha = 0."""
    if not level.signal_power:
        raise ValueError("at alpha=0 the clean image cannot be recovered from pure noise and its prediction.")


class Held(Enum):
    """What stays the same on the line between two levels when a prediction made at one of them is used at the other.

    Both quantities are constant along x(level) = alpha x_0 + sigma eps, so x_b = P x_a + Q f between any two levels a
    and b. In the scaled state y = x / scale the line is dy = f d(clock), and moves are Euler steps.

    - NOISE: f = eps, scale = alpha, clock = sigma / alpha. For networks that predict the noise. Not defined at alpha
      = 0.
    - VELOCITY: f = eps - x_0, scale = alpha + sigma, clock = sigma / (alpha + sigma). For networks that give both
      ends; a flow-matching network predicts f itself. Defined at every level.
    """

    NOISE = "noise"
    VELOCITY = "velocity"

    def squared_ratio(self, start: Level, stop: Level) -> float:
        """P^2."""
        if self is Held.NOISE:
            check_holds_image(start)
            return stop.signal_power / start.signal_power
        return ((stop.alpha + stop.sigma) / (start.alpha + start.sigma)) ** 2

    def coefficients(self, start: Level, stop: Level) -> tuple[float, float]:
        """(P, Q) of x_stop = P x_start + Q f: P = scale_stop / scale_start, Q = sigma_stop - P sigma_start.

        Raises:
          ValueError: NOISE held from a level of alpha = 0.
        """
        P = math.sqrt(self.squared_ratio(start, stop))
        return P, stop.sigma - P * start.sigma

    def scale(self, level: Level) -> float:
        """State per unit of scaled state."""
        return level.alpha if self is Held.NOISE else level.alpha + level.sigma

    def clock(self, level: Level) -> float:
        """The variable in which moves are Euler steps."""
        return level.noise_to_signal if self is Held.NOISE else level.sigma / self.scale(level)

    def of(self, ends: Ends) -> Tensor:
        """f of a prediction."""
        return ends.eps if self is Held.NOISE else ends.eps - ends.x_0

    def ends(self, f: Tensor, x: Tensor, level: Level) -> Ends:
        """The ends of the state x at a level, given f."""
        if self is Held.NOISE:
            return Ends(x, level, f)
        scale = self.scale(level)
        return Ends(x, level, (x + level.alpha * f) / scale, (x - level.sigma * f) / scale)

    def carried(self, ends: Ends, x: Tensor, level: Level) -> Ends:
        """The ends of x at a level when what is held is that of a prediction at another state or level."""
        if ends.x is x and ends.level.same_mix(level):
            return ends
        return self.ends(self.of(ends), x, level)

    def implied(self, x: Tensor, z: Tensor, start: Level, stop: Level) -> Tensor:
        """The f that moves x at one level to z at another: (z - P x) / Q."""
        P, Q = self.coefficients(start, stop)
        return (z - P * x) / Q
