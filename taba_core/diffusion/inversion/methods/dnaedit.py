"""DNAEdit: UniInv that starts towards a drawn noise."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from taba_core.diffusion.ends import Ends
from taba_core.diffusion.grid import Transition
from taba_core.diffusion.inversion.methods.uni_inv import LastVelocity
from taba_core.diffusion.inversion.problem import Problem
from taba_core.diffusion.inversion.registry import inversion_method


@inversion_method("dnaedit")
@dataclass(frozen=True)
class DNAEdit(LastVelocity):
    """Direct noise alignment (Xie et al., arXiv 2506.01430): a drawn noise n is corrected in every step.

    Published as p = x_{l-1} + D_l / (1 - s_{l-1}) (n - x_{l-1}), x_l = x_{l-1} + D_l v(p, s_l) and
    n <- n - (1 - s_{l-1}) (p - x_l) / D_l. That is UniInv whose first velocity is n - x_0, and runs as such on every
    path. The latent depends on n; images come back by the sampler. T evaluations, up to the noise (the published edits
    stop early).
    """

    needs_noise = True

    def first_f(self, problem: Problem, x: Tensor, move: Transition) -> Tensor:
        """That of a state whose noise is n."""
        assert problem.noise is not None
        return problem.held.of(Ends(x, move.start, problem.noise))
