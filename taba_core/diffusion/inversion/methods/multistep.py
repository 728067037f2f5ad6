"""Exact two-step samplers: each state is made from the two before it (BDIA, O-BELM)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from pydantic import Field
from torch import Tensor

from taba_core.diffusion.grid import TimestepGrid
from taba_core.diffusion.inversion.pair import LevelChain, Note, PairMethod
from taba_core.diffusion.inversion.registry import inversion_method
from taba_core.errors import UsageError


class Weights(NamedTuple):
    """x_{l-1} = older x_{l+1} + current x_l + network f(x_l, t_l), f the noise or eps - x_0 (`ends.Held`)."""

    older: float
    current: float
    network: float


class TwoStepMethod(PairMethod):
    """A sampler that is linear in its last two states and one prediction, so that it runs backwards as it stands.

    Sampling from x_T and x_{T-1}, l = T-1..1: x_{l-1} = A x_{l+1} + B x_l + C f(x_l, t_l).
    Inversion: x_1 by one DDIM inversion step from x_0, then x_{l+1} = (x_{l-1} - B x_l - C f(x_l, t_l)) / A.

    T evaluations up, T - 1 down. The latent is x_T, its partner x_{T-1}: from x_T alone (a DDIM step first) the
    image does not come back.
    """

    def sampling_evaluations(self, grid: TimestepGrid) -> int:
        """T - 1: the pair stands for the first step."""
        return grid.num_inference_steps - 1

    @abstractmethod
    def weights(self, chain: LevelChain, level: int) -> Weights:
        """(A, B, C) of the step from levels l+1 and l to level l-1, l = 1..T-1; A > 0."""

    def up(self, x_0: Tensor, chain: LevelChain, note: Note) -> tuple[Tensor, Tensor]:
        """One DDIM step, then the recurrence upwards; (x_T, x_{T-1})."""
        P, Q = chain.coefficients(1)
        moved_by = chain.predict(x_0, 1)
        lower, x = x_0, P * x_0 + Q * moved_by.f
        note(1, lower, moved_by.eps, x)
        for level in range(1, chain.num_steps):
            w = self.weights(chain, level)
            moved_by = chain.predict(x, level)
            lower, x = x, (lower - w.current * x - w.network * moved_by.f) / w.older
            note(level + 1, lower, moved_by.eps, x)
        return x, lower

    def down(self, x: Tensor, y: Tensor, chain: LevelChain, note: Note) -> Tensor:
        """The recurrence downwards from (x_T, x_{T-1})."""
        # No prediction made this step; what is noted is the noise that would have.
        lower, upper_level = chain.levels[-2:]
        held = chain.dynamics.held
        noise = held.ends(held.implied(y, x, lower, upper_level), y, lower).eps
        note(chain.num_steps, x, noise, y)
        upper, x = x, y
        for level in range(chain.num_steps - 1, 0, -1):
            w = self.weights(chain, level)
            moved_by = chain.predict(x, level)
            upper, x = x, w.older * upper + w.current * x + w.network * moved_by.f
            note(level, upper, moved_by.eps, x)
        return x


@inversion_method("bdia")
@dataclass(frozen=True)
class BDIA(TwoStepMethod):
    """Bi-directional integration (Zhang et al., ECCV 2024).

    x_{l-1} = S(x_l) + gamma (x_{l+1} - U(x_l)), S and U the DDIM moves from level l down to l-1 and up to l+1 with
    the same prediction f(x_l, t_l).

    Inverting divides by gamma in every step, so that below 1 every error grows by gamma^-T: with gamma = 0.5 and
    50 steps the latent of an image has a standard deviation of 1e9 to 1e12. It is returned as it is.

    Attributes:
      gamma: weight of the correction, in (0, 1]; published 1 for about 40 steps and more, 0.5 for about 10.
    """

    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0

    def weights(self, chain: LevelChain, level: int) -> Weights:
        """A = gamma, B = 1 / P_l - gamma P_{l+1}, C = -Q_l / P_l - gamma Q_{l+1}."""
        P, Q = chain.coefficients(level)
        P_up, Q_up = chain.coefficients(level + 1)
        return Weights(self.gamma, 1 / P - self.gamma * P_up, -Q / P - self.gamma * Q_up)


@inversion_method("o-belm")
@dataclass(frozen=True)
class OBELM(TwoStepMethod):
    """Optimal bidirectional explicit linear multistep sampler (Wang et al., NeurIPS 2024).

    In y = x / scale against the clock s of what is held (`ends.Held`), with d1 = s_l - s_{l+1}, d2 = s_{l-1} - s_l, r
    = d2 / d1:

        y_{l-1} = r^2 y_{l+1} + (1 - r^2) y_l + r (d1 + d2) f(x_l, t_l).

    Its spurious solution grows by 1 / r^2 a step in the inverse direction, (last d / first d)^2 in total.
    """

    def weights(self, chain: LevelChain, level: int) -> Weights:
        """The recurrence in x.

        Raises:
          UsageError: two levels are the same (level 0 and 1 of a grid whose first timestep is 0 and whose
            level 0 is that timestep too).
        """
        s, scale = chain.clock, chain.scale
        d1, d2 = s[level] - s[level + 1], s[level - 1] - s[level]
        if d2 == 0:
            raise UsageError(
                f"inversion method '{self.name}' needs distinct levels, and levels {level - 1} and {level} are both "
                f"at alpha_bar={chain.levels[level].alpha_bar:g}; use final_alpha_bar=one, or a grid that starts later."
            )
        r = d2 / d1
        older = r * r * scale[level - 1] / scale[level + 1]
        current = (1 - r * r) * scale[level - 1] / scale[level]
        return Weights(older, current, r * (d1 + d2) * scale[level - 1])
