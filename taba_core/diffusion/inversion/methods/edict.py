"""EDICT: two states that move each other (Wallace et al., CVPR 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from taba_core.diffusion.grid import TimestepGrid
from taba_core.diffusion.inversion.pair import LevelChain, Note, PairMethod
from taba_core.diffusion.inversion.registry import inversion_method


@inversion_method("edict")
@dataclass(frozen=True)
class EDICT(PairMethod):
    """Coupled transforms: each state is moved by the prediction at the other, so every move can be undone.

    Sampling step l, with (P, Q) of the DDIM step, f the noise or eps - x_0 (`ends.Held`), and the roles of x and y
    exchanged in every other step:

        x <- (x - Q f(y, t_l)) / P,      y <- (y - Q f(x, t_l)) / P,
        x <- p x + (1 - p) y,            y <- (1 - p) x + p y.

    Inversion undoes these in reverse order, from x = y = x_0; 2 T evaluations each way. The latent is x_T, its
    partner y_T. Mixing contracts the gap x - y by p^2 a step, so the inversion amplifies it by p^-2: 1400 times
    over 50 steps at the published p = 0.93.

    Attributes:
      p: mixing weight, in (0, 1]; 1 mixes nothing.
    """

    p: Annotated[float, Field(gt=0, le=1)] = 0.93

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> int:
        """2 T."""
        return 2 * grid.num_inference_steps

    def sampling_evaluations(self, grid: TimestepGrid) -> int:
        """2 T."""
        return 2 * grid.num_inference_steps

    def up(self, x_0: Tensor, chain: LevelChain, note: Note) -> tuple[Tensor, Tensor]:
        """Unmix, then undo the two moves, l = 1..T."""
        x, y, p = x_0, x_0, self.p
        for level in range(1, chain.num_steps + 1):
            P, Q = chain.coefficients(level)
            before = x
            y = (y - (1 - p) * x) / p
            x = (x - (1 - p) * y) / p
            if _x_moves_first(chain, level):
                y = P * y + Q * chain.predict(x, level).f
                moved_by = chain.predict(y, level)
                x = P * x + Q * moved_by.f
            else:
                moved_by = chain.predict(y, level)
                x = P * x + Q * moved_by.f
                y = P * y + Q * chain.predict(x, level).f
            note(level, before, moved_by.eps, x)
        return x, y

    def down(self, x: Tensor, y: Tensor, chain: LevelChain, note: Note) -> Tensor:
        """Two moves, then mix, l = T..1."""
        p = self.p
        for level in range(chain.num_steps, 0, -1):
            P, Q = chain.coefficients(level)
            before = x
            if _x_moves_first(chain, level):
                moved_by = chain.predict(y, level)
                x = (x - Q * moved_by.f) / P
                y = (y - Q * chain.predict(x, level).f) / P
            else:
                y = (y - Q * chain.predict(x, level).f) / P
                moved_by = chain.predict(y, level)
                x = (x - Q * moved_by.f) / P
            x = p * x + (1 - p) * y
            y = (1 - p) * x + p * y
            note(level, before, moved_by.eps, x)
        return x


def _x_moves_first(chain: LevelChain, level: int) -> bool:
    """In sampling: in the first step, and in every second one after it."""
    return (chain.num_steps - level) % 2 == 0
