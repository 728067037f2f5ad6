"""RF-Solver: the explicit midpoint rule, up and down."""

from __future__ import annotations

from dataclasses import dataclass

from taba_core.diffusion.ends import Held
from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.inversion.registry import inversion_method
from taba_core.diffusion.inversion.stages import TwoStage, level_between
from taba_core.diffusion.level import Level


@inversion_method("rf-solver")
@dataclass(frozen=True)
class RFSolver(TwoStage):
    """RF-Solver, which is the explicit midpoint rule in both directions (Wang et al., arXiv 2411.04746).

    Published as a Taylor step, x + h v_1 + h^2/2 v', v' = (v_2 - v_1) / (h/2), with v_1 = v(x, s) and
    v_2 = v(x + h/2 v_1, s + h/2); the terms of v_1 cancel, and x + h v_2 is left. Where the path is no flow the second
    prediction is made at the training timestep nearest to the middle, weighted so that the step stays of second order
    (`stages.second_order`). 2 T evaluations each way on a flow. The published edits share attention between the two
    directions; this is the solver alone.
    """

    def second_level(self, grid: TimestepGrid, held: Held, move: Transition) -> Level | None:
        """Half of the way."""
        return level_between(grid, held, move.start, move.stop)
