"""FireFlow: the midpoint rule that reuses the velocity of the last midpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.inversion.problem import Dynamics
from taba_core.diffusion.inversion.registry import inversion_method
from taba_core.diffusion.inversion.stages import OwnIntegrator, level_between, second_order


@inversion_method("fireflow")
@dataclass(frozen=True)
class FireFlow(OwnIntegrator):
    """FireFlow: second order for about one evaluation a step (Deng et al., arXiv 2412.07517).

    With w_0 = v(x_0, 0) on a flow: w_l = v(x_{l-1} + D_l/2 w_{l-1}, (s_{l-1} + s_l) / 2), x_l = x_{l-1} + D_l w_l,
    D_l = s_l - s_{l-1}. Sampling starts with a fresh velocity of the latent, so that it is nearly, not exactly, the
    way back. T + 1 evaluations each way.
    """

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> int:
        """T - K + 1; none where all steps are replaced."""
        steps = grid.num_inference_steps - forward_steps
        return steps + (steps > 0)

    def sampling_evaluations(self, grid: TimestepGrid) -> int:
        """T + 1."""
        return grid.num_inference_steps + 1

    def integrate(
        self, dynamics: Dynamics, x: Tensor, move: Transition, state: Any
    ) -> tuple[Tensor, Tensor, Any]:
        """One evaluation half of the way; `state` is the last one's f."""
        f = dynamics.held.of(dynamics.predict(x, move.asked)) if state is None else state
        between = level_between(dynamics.grid, dynamics.held, move.start, move.stop)
        if between is None:
            ends = dynamics.predict(x, move.asked)
            return *dynamics.move(x, ends, move), dynamics.held.of(ends)
        line, f = second_order(dynamics, x, move, f, between)
        return *dynamics.move(x, line, move), f
