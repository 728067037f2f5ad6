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
    """Reversible Euler steps of the scaled state y = x / scale against the clock s of what is held (`ends.Held`).

    Of a network that predicts the noise f = eps, scale = alpha and s = sigma / alpha, the noise-prediction form of the
    source; of others f = eps - x_0, scale = alpha + sigma and s = sigma / scale.

    Sampling step l with h = s_{l-1} - s_l, for the pair (Y, H):

        Y <- zeta Y + (1 - zeta) H + h f(H at level l),    H <- H + h f(Y at level l-1).

    Inversion undoes the second, then the first, from Y = H = x_0 / scale_0; 2 T evaluations each way. Level 0
    has no network time: that of level 1 is used, in both directions. The latent is scale_T Y, its partner
    scale_T H.

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
        zeta, scale = self.zeta, chain.scale
        Y = H = x_0 / scale[0]
        for level in range(1, chain.num_steps + 1):
            h = _step_width(chain, level)
            before = scale[level - 1] * Y
            H = H - h * chain.predict(before, level - 1).f
            moved_by = chain.predict(scale[level] * H, level)
            Y = (Y - (1 - zeta) * H - h * moved_by.f) / zeta
            note(level, before, moved_by.eps, scale[level] * Y)
        return scale[-1] * Y, scale[-1] * H

    def down(self, x: Tensor, y: Tensor, chain: LevelChain, note: Note) -> Tensor:
        """Y, then H, l = T..1."""
        zeta, scale = self.zeta, chain.scale
        Y, H = x / scale[-1], y / scale[-1]
        for level in range(chain.num_steps, 0, -1):
            h = _step_width(chain, level)
            before = scale[level] * Y
            moved_by = chain.predict(scale[level] * H, level)
            Y = zeta * Y + (1 - zeta) * H + h * moved_by.f
            after = scale[level - 1] * Y
            H = H + h * chain.predict(after, level - 1).f
            note(level, before, moved_by.eps, after)
        return scale[0] * Y


def _step_width(chain: LevelChain, level: int) -> float:
    """h = s_{l-1} - s_l < 0 of sampling step l."""
    return chain.clock[level - 1] - chain.clock[level]
