"""Direct inversion: DDIM inversion whose path is kept, and forced on the sampler (Ju et al., ICLR 2024, "PnP")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from taba_core.diffusion.grid import TimestepGrid
from taba_core.diffusion.inversion.method import Carried, Record, Shape, Whole, WholeMethod
from taba_core.diffusion.inversion.problem import Dynamics, Problem
from taba_core.diffusion.inversion.registry import inversion_method
from taba_core.diffusion.sampling import StepRecord

# Axes: B samples in a batch, C channels, H rows, W columns; T steps.


@inversion_method("direct-inversion")
@dataclass(frozen=True)
class DirectInversion(WholeMethod):
    """Reconstruction made exact by remembering the way; the latent is that of DDIM inversion, bit for bit.

    Inversion: x*_0 = x_0 .. x*_T by DDIM, `states` = x*_0..x*_{T-1}, (B, T, C, H, W). Sampling adds to each step
    what it lacks:

        x_{l-1} = S(x_l) + d_l,    d_l = x*_{l-1} - S(x_l).

    The image comes back for any network and any conventions because it is one of the stored states: nothing
    about the latent follows from it. T evaluations each way; what is stored is T images an image.
    """

    own_sampler = True
    keeps_path = True

    def carried_shapes(
        self, grid: TimestepGrid, sample_shape: Shape, cond_shapes: Mapping[str, Shape]
    ) -> dict[str, Shape]:
        """`states`, the T states below the latent."""
        return {"states": (grid.num_inference_steps, *sample_shape)}

    def invert_whole(self, problem: Problem, record: Record) -> Whole:
        """DDIM inversion that keeps its states."""
        x, T = problem.x_0, problem.grid.num_inference_steps
        states = x.new_empty((len(x), T, *x.shape[1:]))
        for move in problem.grid.upward(
            network_time=problem.network_time, levels=problem.levels, first_time=problem.first_time
        ):
            states[:, move.step - 1] = x
            x_to, eps = problem.move(x, problem.predict(x, move.asked), move)
            record(StepRecord(move.step, x, eps, x_to))
            x = x_to
        return Whole(x, {"states": states})

    def reconstruct(self, dynamics: Dynamics, latent: Tensor, carried: Carried, record: Record) -> Tensor:
        """DDIM sampling, every step corrected to the stored state."""
        x, states = latent, carried["states"]
        for move in dynamics.grid.downward():
            S, eps = dynamics.move(x, dynamics.predict(x, move.asked), move)
            d = (
                states[:, move.step - 1].double() - S.double()
            )  # float64, so that S + d rounds to the state itself
            x_to = (S.double() + d).to(x.dtype)
            record(StepRecord(move.step, x, eps, x_to))
            x = x_to
        return x
