"""SDEdit: noise on the image, then sampling under the target (Meng et al., ICLR 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taba_core import rng
from taba_core.conventions import X0Rule
from taba_core.diffusion.attention.editor import Editor
from taba_core.diffusion.attention.registry import editor
from taba_core.diffusion.denoiser import Denoiser
from taba_core.diffusion.forward import forward_diffuse
from taba_core.diffusion.grid import TimestepGrid
from taba_core.diffusion.sampling import Conditioning, check_levels, last_state, walk, working_precision
from taba_core.rng import MAX_SEED

# Axes: B images, C channels, H rows, W columns; T steps.


@editor("sdedit")
@dataclass(frozen=True)
class SDEdit(Editor):
    """The baseline without an inversion: the image is noised to a level of the grid and sampled from there.

        x_l = alpha_l x_0 + sigma_l n,    l = round(strength T)    (Meng et al. 2022, Alg. 1 on DDIM steps)

    It costs l evaluations, needs no attention layers, and runs on every model that reads a condition.

    Attributes:
      strength: share of the T steps that are sampled; 1 starts at the last level, whose noise hides the image.
      seed: of the noise n, which belongs to (seed, sample id).
    """

    inverts = False
    controls_attention = False

    strength: Annotated[float, Field(gt=0, le=1)] = 0.8
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0

    def steps(self, num_inference_steps: int) -> int:
        """l, the sampling steps taken of T: at least 1."""
        return max(1, round(self.strength * num_inference_steps))

    def sample(
        self,
        model: Denoiser,
        x_0: Tensor,
        grid: TimestepGrid,
        cond: Conditioning,
        *,
        x0_rule: X0Rule = "none",
        sample_ids: Sequence[int],
    ) -> Tensor:
        """Edits of clean images, (B, C, H, W).

        Args:
          x_0: clean states, (B, C, H, W).
          cond: the target condition, batch-first.
          sample_ids: B ids that the noise belongs to.
        """
        check_levels(model, grid)
        x_0, steps = working_precision(x_0), self.steps(grid.num_inference_steps)
        noise = rng.normal(list(sample_ids), tuple(x_0.shape[1:]), seed=self.seed, stream="sdedit")
        moves = grid.downward()[-steps:]
        start = forward_diffuse(x_0, torch.from_numpy(noise).to(x_0), moves[0].start)
        return last_state(start, walk(model, start, moves, x0_rule=x0_rule, cond=cond), None)
