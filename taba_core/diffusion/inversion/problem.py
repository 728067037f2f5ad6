"""What an inversion method is given: the network on its grid, and the image to invert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from taba_core import rng
from taba_core.conventions import FirstTime, Levels, NetworkTime, X0Rule
from taba_core.diffusion.ddim import apply_x0_rule
from taba_core.diffusion.ddim import move as ddim_move
from taba_core.diffusion.denoiser import Denoiser, held_by, predict_ends
from taba_core.diffusion.ends import Ends, Held
from taba_core.diffusion.finite import check_finite
from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.level import Level
from taba_core.diffusion.record import Conditioning

if TYPE_CHECKING:
    from torch import Tensor

# Axes: B samples in a batch, R rows of a batch, C channels, H rows, W columns.


@dataclass(frozen=True, eq=False)
class Dynamics:
    """A network on a grid of levels, and what it has cost so far.

    Attributes:
      denoiser: the network; ask it through `predict` or `eps`, which count.
      grid: levels of the sampler.
      cond: batch-first conditioning, {} if unconditional.
      x0_rule: what is done to the predicted x_0 at each step.
      sample_ids: (B,) ids, what a method's own random numbers belong to.
      spent: (B,) int64, network evaluations of each sample; `predict` and `eps` add to it.
      source_cond: the condition under which the images were inverted, where they are sampled under another; None is
        `cond`.
    """

    denoiser: Denoiser
    grid: TimestepGrid
    cond: Conditioning
    x0_rule: X0Rule
    sample_ids: Sequence[int]
    spent: Tensor
    source_cond: Conditioning | None = field(default=None, kw_only=True)

    @property
    def held(self) -> Held:
        """What moves between levels carry: the noise, or for networks that give both ends eps - x_0."""
        return held_by(self.denoiser)

    def predict(
        self, x: Tensor, level: Level, *, rows: Tensor | None = None, cond: Conditioning | None = None
    ) -> Ends:
        """The two ends of the line each state lies on, in the state's own precision, counted.

        Args:
          x: states, (B, C, H, W), or (R, C, H, W) with `rows`.
          level: alpha and sigma that x is taken to have, and the network's time: `Transition.asked` for the state a
            move starts from, `Transition.asked_beyond` for a guess of the state it ends at.
          rows: (R,) int64, the sample each state belongs to; may repeat. None is all, once.
          cond: in place of the problem's own, batch-first over all B samples.

        Raises:
          WorkError: the network returned NaN or infinity, or was handed a state that is not finite.
        """
        assert level.time is not None, "a network is asked at a time"
        ends = predict_ends(self.denoiser, x, level, self._given(rows, cond))
        self._count(rows)
        for part in (ends.eps, ends.clean):
            if part is not None:
                _check_finite(part, x, level.time)
        return ends

    def eps(
        self, x: Tensor, t: float, *, rows: Tensor | None = None, cond: Conditioning | None = None
    ) -> Tensor:
        """The network's prediction of the noise at its time's own level, counted; shape and precision of x.

        Args:
          t: the network's time, as `Transition.network_time`.
          Others and errors as `predict`.
        """
        eps = self.denoiser.eps(x, t, self._given(rows, cond)).to(x.dtype)
        self._count(rows)
        _check_finite(eps, x, t)
        return eps

    def move(self, x: Tensor, prediction: Tensor | Ends, move: Transition) -> tuple[Tensor, Tensor]:
        """DDIM step under the x_0 rule: (x_to, the eps that moved the state), each the shape of x.

        Args:
          x: state at the move's first level.
          prediction: the noise in x; or what `predict` returned, of x or of another state, whose `held` quantity is
            then carried over.
        """
        return ddim_move(self.line(x, prediction, move), move.stop)

    def line(self, x: Tensor, prediction: Tensor | Ends, move: Transition) -> Ends:
        """The ends of x after the x_0 rule: the line along which `move` goes; arguments as there."""
        if isinstance(prediction, Ends):
            ends = self.held.carried(prediction, x, move.start)
        else:
            ends = Ends(x, move.start, prediction)
        return apply_x0_rule(ends, self.x0_rule)

    def implied(self, x: Tensor, z: Tensor, move: Transition) -> Ends:
        """The ends of x whose DDIM move without a rule leads to z."""
        return self.held.ends(self.held.implied(x, z, move.start, move.stop), x, move.start)

    def _given(self, rows: Tensor | None, cond: Conditioning | None) -> Conditioning:
        given = self.cond if cond is None else cond
        return given if rows is None else {key: value[rows] for key, value in given.items()}

    def _count(self, rows: Tensor | None) -> None:
        import torch  # here, as below: methods are looked up where nothing is computed

        index = torch.arange(len(self.spent)) if rows is None else rows.cpu()
        each = int(getattr(self.denoiser, "evaluations_per_image", 1))
        self.spent.index_add_(0, index, torch.full_like(index, each))

    def normal(self, like: Tensor, *, seed: int, stream: str) -> Tensor:
        """Standard normal numbers, (B, ...) as `like`; row i depends on (seed, stream, sample id i) only."""
        import torch

        drawn = rng.normal(list(self.sample_ids), tuple(like.shape[1:]), seed=seed, stream=stream)
        return torch.from_numpy(drawn).to(like)


@dataclass(frozen=True, eq=False)
class Problem(Dynamics):
    """Clean images to invert under given dynamics.

    Attributes:
      x_0: clean states, (B, C, H, W), float32 or float64: the precision of everything that follows.
      noise: standard normal numbers, shape of x_0, or None.
      reference: eps_t that the generation used in step l, or what its step carried, where the caller knows it.
      network_time, levels, first_time: conventions of one-evaluation methods; see `TimestepGrid.upward`. Methods that
        solve the sampler's own step (`StepMethod.implicit`) use target times and exact levels whatever these say.
    """

    x_0: Tensor
    noise: Tensor | None = None
    reference: Mapping[int, Tensor] = field(default_factory=dict)
    network_time: NetworkTime = "target"
    levels: Levels = "exact"
    first_time: FirstTime = "one"


def per_image_rms(x: Tensor) -> Tensor:
    """Root mean square of each sample, (B,) float64."""
    return x.double().flatten(1).square().mean(1).sqrt()


def _check_finite(prediction: Tensor, x: Tensor, t: float) -> None:
    check_finite(
        prediction,
        f"the network returned NaN or infinity at t={t:g}. Check its weights; in half precision use more.",
        x,
        f"the state handed to the network at t={t:g} holds NaN or infinity: the inversion has diverged. "
        "Use float64, more steps, or another method.",
    )
