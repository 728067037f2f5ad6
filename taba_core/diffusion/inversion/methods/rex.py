"""Rex: a reversible form of an explicit step (Blasingame & Liu, arXiv 2502.08834; McCallum & Foster's coupling)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from taba_core.diffusion.grid import TimestepGrid
from taba_core.diffusion.inversion.pair import LevelChain, Note, PairMethod
from taba_core.diffusion.inversion.registry import inversion_method


@inversion_method("rex")
@dataclass(frozen=True)
class Rex(PairMethod):
    """Reversible Euler steps in the noise-prediction form, y = x / sqrt(a) against s = sqrt(1 - a) / sqrt(a).

    Sampling step l with h = s_{l-1} - s_l, for the pair (Y, H):

        Y <- zeta Y + (1 - zeta) H + h eps(H at level l),    H <- H + h eps(Y at level l-1).

    Inversion undoes the second, then the first, from Y = H = x_0 / sqrt(a_0); 2 T evaluations each way. Level 0
    has no network time: that of level 1 is used, in both directions. The latent is sqrt(a_T) Y, its partner
    sqrt(a_T) H.

    The inverse is stable, the sampler is not: downwards the gap Y - H grows where DDIM contracts. A gap of 1 at the
    latent is 6e5 in the image at variance 1e-4 (50 steps, linear betas; 190 for EDICT, 50 for BDIA), so that 1e-7,
    what a float32 network differs by in another batch, becomes 1e-2 to 1e-1 in plain areas.

    Attributes:
      zeta: coupling, in (0, 1]; 1 couples by the network alone.
    """

    zeta: Annotated[float, Field(gt=0, le=1)] = 0.999

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> int:
        """2 T."""
        return 2 * grid.num_inference_steps

    def sampling_evaluations(self, grid: TimestepGrid) -> int:
        """2 T."""
        return 2 * grid.num_inference_steps

    def up(self, x_0: Tensor, chain: LevelChain, note: Note) -> tuple[Tensor, Tensor]:
        """H, then Y, l = 1..T."""
        zeta, root_a = self.zeta, chain.scale
        Y = H = x_0 / root_a[0]
        for level in range(1, chain.num_steps + 1):
            h = _step_width(chain, level)
            before = root_a[level - 1] * Y
            H = H - h * chain.eps(before, level - 1)
            eps = chain.eps(root_a[level] * H, level)
            Y = (Y - (1 - zeta) * H - h * eps) / zeta
            note(level, before, eps, root_a[level] * Y)
        return root_a[-1] * Y, root_a[-1] * H

    def down(self, x: Tensor, y: Tensor, chain: LevelChain, note: Note) -> Tensor:
        """Y, then H, l = T..1."""
        zeta, root_a = self.zeta, chain.scale
        Y, H = x / root_a[-1], y / root_a[-1]
        for level in range(chain.num_steps, 0, -1):
            h = _step_width(chain, level)
            before = root_a[level] * Y
            eps = chain.eps(root_a[level] * H, level)
            Y = zeta * Y + (1 - zeta) * H + h * eps
            after = root_a[level - 1] * Y
            H = H + h * chain.eps(after, level - 1)
            note(level, before, eps, after)
        return root_a[0] * Y


def _step_width(chain: LevelChain, level: int) -> float:
    """h = s_{l-1} - s_l < 0 of sampling step l."""
    return chain.noise_to_signal[level - 1] - chain.noise_to_signal[level]
