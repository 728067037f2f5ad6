"""What an inversion method is given: the network on its grid, and the image to invert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from taba_core import rng
from taba_core.conventions import Levels, NetworkTime, X0Rule
from taba_core.diffusion.ddim import move as ddim_move
from taba_core.diffusion.denoiser import Denoiser
from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.sampling import Conditioning
from taba_core.errors import WorkError

# Axes: B samples in a batch, R rows of a batch, C channels, H rows, W columns.


@dataclass(frozen=True, eq=False)
class Dynamics:
    """A network on a grid of levels, and what it has cost so far.

    Attributes:
      denoiser: the network; ask it through `eps`, which counts.
      grid: levels of the sampler.
      cond: batch-first conditioning, {} if unconditional.
      x0_rule: what is done to the predicted x_0 at each step.
      sample_ids: (B,) ids, what a method's own random numbers belong to.
      spent: (B,) int64, network evaluations of each sample; `eps` adds to it.
    """

    denoiser: Denoiser
    grid: TimestepGrid
    cond: Conditioning
    x0_rule: X0Rule
    sample_ids: Sequence[int]
    spent: Tensor

    def eps(
        self, x: Tensor, t: float, *, rows: Tensor | None = None, cond: Conditioning | None = None
    ) -> Tensor:
        """The network's prediction in the state's own precision, counted.

        Args:
          x: states, (B, C, H, W), or (R, C, H, W) with `rows`.
          t: the network's time, as `Transition.network_time`.
          rows: (R,) int64, the sample each state belongs to; may repeat. None is all, once.
          cond: in place of the problem's own, batch-first over all B samples.

        Returns:
          eps, shape of x.

        Raises:
          WorkError: the network returned NaN or infinity, or was handed a state that is not finite.
        """
        given = self.cond if cond is None else cond
        if rows is not None:
            given = {key: value[rows] for key, value in given.items()}
        eps = self.denoiser.eps(x, t, given).to(x.dtype)
        each = getattr(self.denoiser, "evaluations_per_image", 1)
        index = torch.arange(len(self.spent)) if rows is None else rows.cpu()
        self.spent.index_add_(0, index, torch.full_like(index, each))
        # A sum is finite only if all its terms are, and costs far less than asking each.
        if not torch.isfinite(eps.detach().sum()) and not torch.isfinite(eps).all():
            raise WorkError(_not_finite(x, t))
        return eps

    def move(self, x: Tensor, eps: Tensor, move: Transition) -> tuple[Tensor, Tensor]:
        """DDIM step under the x_0 rule: (x_to, the eps that moved the state), each the shape of x."""
        return ddim_move(x, eps, move.alpha_bar_from, move.alpha_bar_to, self.x0_rule)

    def normal(self, like: Tensor, *, seed: int, stream: str) -> Tensor:
        """Standard normal numbers, (B, ...) as `like`; row i depends on (seed, stream, sample id i) only."""
        drawn = rng.normal(list(self.sample_ids), tuple(like.shape[1:]), seed=seed, stream=stream)
        return torch.from_numpy(drawn).to(like)


@dataclass(frozen=True, eq=False)
class Problem(Dynamics):
    """Clean images to invert under given dynamics.

    Attributes:
      x_0: clean states, (B, C, H, W), float32 or float64: the precision of everything that follows.
      noise: standard normal numbers, shape of x_0, or None.
      reference: eps_t that the generation used in step l, where the caller knows it.
      network_time, levels: conventions of one-evaluation methods; see `TimestepGrid.upward`. Methods that solve
        the sampler's own step (`StepMethod.implicit`) use target times and exact levels whatever these say.
    """

    x_0: Tensor
    noise: Tensor | None = None
    reference: Mapping[int, Tensor] = field(default_factory=dict)
    network_time: NetworkTime = "target"
    levels: Levels = "exact"


def per_image_rms(x: Tensor) -> Tensor:
    """Root mean square of each sample, (B,) float64."""
    return x.double().flatten(1).square().mean(1).sqrt()


def _not_finite(x: Tensor, t: float) -> str:
    if not torch.isfinite(x).all():
        return (
            f"the state handed to the network at t={t:g} holds NaN or infinity: the inversion has diverged. "
            "Use float64, more steps, or another method."
        )
    return f"the network returned NaN or infinity at t={t:g}. Check its weights; in half precision use more."
