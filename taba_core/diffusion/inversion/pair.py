"""What samplers of two coupled states share: the chain of levels they move on, and how a pair is stored."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from taba_core.conventions import X0Rule
from taba_core.diffusion.ddim import apply_x0_rule
from taba_core.diffusion.ends import Ends
from taba_core.diffusion.grid import TimestepGrid
from taba_core.diffusion.inversion.method import Carried, Record, Shape, Whole, WholeMethod
from taba_core.diffusion.inversion.problem import Dynamics, Problem
from taba_core.diffusion.level import Level
from taba_core.diffusion.sampling import StepRecord
from taba_core.errors import UsageError, WorkError

# Axes: B samples in a batch, C channels, H rows, W columns. Levels l = 0 (clean) .. T. States are float64.

Note = Callable[[int, Tensor, Tensor, Tensor], None]


class Prediction(NamedTuple):
    """What a network says at a level: f, the quantity that is held between levels, and the noise."""

    f: Tensor
    eps: Tensor


@dataclass(frozen=True, eq=False)
class LevelChain:
    """Levels 0..T joined end to end, and the network at each of them.

    Every level is the upper end of its step, so that three neighbouring levels mean something. (On a grid of
    style diffusers-trailing the DDIM sampler itself does not chain its levels.)

    Attributes:
      dynamics: network, grid, conditioning and x_0 rule.
      network_dtype: precision in which the network is asked; states are float64.
      method: name of the method, for messages.

    Raises:
      UsageError: an x_0 rule that changes x_0 and keeps eps, which no coupled sampler can undo.
    """

    dynamics: Dynamics
    network_dtype: torch.dtype
    method: str

    def __post_init__(self) -> None:
        check_reversible(self.dynamics.x0_rule)

    @property
    def num_steps(self) -> int:
        """T."""
        return self.dynamics.grid.num_inference_steps

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """Levels 0..T."""
        return self.dynamics.grid.levels

    @cached_property
    def scale(self) -> list[float]:
        """State x_l per scaled state y_l, see `ends.Held`: alpha_l where the noise is held."""
        return [self.dynamics.held.scale(level) for level in self.levels]

    @cached_property
    def clock(self) -> list[float]:
        """s_l = sigma_l / scale_l: dy = f ds."""
        return [level.sigma / scale for level, scale in zip(self.levels, self.scale, strict=True)]

    def coefficients(self, level: int) -> tuple[float, float]:
        """(P, Q) of step `level`: x_l = P x_{l-1} + Q f, x_{l-1} = (x_l - Q f) / P."""
        return self.dynamics.held.coefficients(self.levels[level - 1], self.levels[level])

    def predict(self, x: Tensor, level: int) -> Prediction:
        """The network at a level, in the precision of x, after the x_0 rule; level 0 is asked as level 1.

        Raises:
          WorkError: a state that the network's precision cannot hold, or a network that returned NaN.
        """
        asked = self.levels[max(level, 1)]
        ends = self.dynamics.predict(self.in_network_precision(x), asked)
        clean = None if ends.clean is None else ends.clean.to(x.dtype)
        ends = apply_x0_rule(Ends(x, asked, ends.eps.to(x.dtype), clean), self.dynamics.x0_rule)
        return Prediction(self.dynamics.held.of(ends), ends.eps)

    def in_network_precision(self, x: Tensor) -> Tensor:
        """x, rounded.

        Raises:
          WorkError: it overflows.
        """
        rounded = x.to(self.network_dtype)
        finite = torch.isfinite(rounded).flatten(1).all(1)
        if not finite.all():
            row = int((~finite).nonzero()[0])
            raise WorkError(
                f"inversion method '{self.method}' reached {float(x[row].abs().max()):.0e} in sample "
                f"{self.dynamics.sample_ids[row]}, which {str(self.network_dtype).removeprefix('torch.')} cannot "
                "hold: its inverse amplifies. Use fewer steps or other options."
            )
        return rounded

    def note_to(self, record: Record) -> Note:
        """A note of (step, x_from, eps, x_to) that reaches `record` in the network's precision."""

        def note(step: int, x_from: Tensor, eps: Tensor, x_to: Tensor) -> None:
            record(StepRecord(step, *(x.to(self.network_dtype) for x in (x_from, eps, x_to))))

        return note


class PairMethod(WholeMethod):
    """An inversion whose sampler carries a pair of states (x, y); x_T is the latent, y_T is `partner`.

    States are float64 whatever the network's precision is. The latent and its partner are stored in the precision
    of x_0; `rounding`, (B, 2, C, H, W), is what storing dropped of the two, so that a float32 store holds 48 bits
    of each. The sampler is the exact inverse up to float64 rounding as long as the network returns the same bits
    for the same input; where it does not (another batch composition, another machine) the methods differ in how
    much they amplify that.

    The sampler's own levels and times are retraced; the problem's network_time and levels do not apply.
    """

    own_sampler = True

    def check_rule(self, rule: X0Rule) -> None:
        """As `check_reversible`."""
        check_reversible(rule)

    def carried_shapes(
        self, grid: TimestepGrid, sample_shape: Shape, cond_shapes: Mapping[str, Shape]
    ) -> dict[str, Shape]:
        """`partner`, one more state, and `rounding`, two."""
        return {"partner": sample_shape, "rounding": (2, *sample_shape)}

    def invert_whole(self, problem: Problem, record: Record) -> Whole:
        """x_0 to the pair at level T.

        Raises:
          WorkError: a state that the precision of x_0 cannot hold.
        """
        chain = LevelChain(problem, problem.x_0.dtype, self.name)
        pair = torch.stack(self.up(problem.x_0.double(), chain, chain.note_to(record)), dim=1)
        stored = chain.in_network_precision(pair)
        carried = {"partner": stored[:, 1], "rounding": (pair - stored.double()).to(stored.dtype)}
        return Whole(stored[:, 0], carried)

    def reconstruct(self, dynamics: Dynamics, latent: Tensor, carried: Carried, record: Record) -> Tensor:
        """The pair at level T back to the image."""
        chain = LevelChain(dynamics, latent.dtype, self.name)
        pair = torch.stack([latent, carried["partner"]], dim=1).double() + carried["rounding"].double()
        image = self.down(pair[:, 0], pair[:, 1], chain, chain.note_to(record))
        return image.to(latent.dtype)

    @abstractmethod
    def up(self, x_0: Tensor, chain: LevelChain, note: Note) -> tuple[Tensor, Tensor]:
        """(x_T, y_T) of a clean image, float64, (B, C, H, W)."""

    @abstractmethod
    def down(self, x: Tensor, y: Tensor, chain: LevelChain, note: Note) -> Tensor:
        """x_0 of a pair at level T, float64, (B, C, H, W)."""


def check_reversible(x0_rule: str) -> None:
    """Refuse (UsageError) an x_0 rule that changes x_0 and keeps eps, which no coupled sampler can undo."""
    if x0_rule not in ("none", "clip-rederive"):
        raise UsageError(
            f"x0_rule={x0_rule} moves the state by another eps than the network's, and samplers of coupled states are "
            "then not invertible; use x0_rule=none or clip-rederive."
        )
