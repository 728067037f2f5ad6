"""Heun's rule: the mean of the predictions at both ends of a step."""

from __future__ import annotations

from dataclasses import dataclass

from taba_core.diffusion.ends import Held
from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.inversion.registry import inversion_method
from taba_core.diffusion.inversion.stages import TwoStage
from taba_core.diffusion.level import Level


@inversion_method("heun")
@dataclass(frozen=True)
class Heun(TwoStage):
    """Heun's second-order rule in both directions (Karras et al. 2022, Alg. 1).

    On a flow, with h = s_l - s_{l-1}: x_l = x_{l-1} + h/2 (v(x_{l-1}, s_{l-1}) + v(x_{l-1} + h v, s_l)). Elsewhere the
    same in y = x / scale by its clock (`ends.Held`). Sampling ends with an Euler step, because the clean image has no
    second prediction (as diffusers' FlowMatchHeunDiscreteScheduler does). 2 T evaluations up, 2 T - 1 down on a flow.
    """

    def second_level(self, grid: TimestepGrid, held: Held, move: Transition) -> Level | None:
        """The level that the step ends at."""
        return move.stop if move.stop.time is not None else None
