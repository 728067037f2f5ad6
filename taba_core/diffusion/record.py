"""What a walk over noise levels tells of each of its steps. Types alone: no torch is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

# Axes: B samples in a batch, C channels, H rows, W columns.

Conditioning: TypeAlias = "Mapping[str, Tensor]"


@dataclass(frozen=True)
class StepRecord:
    """What one transition read and did.

    Attributes:
      step: l, 1..T.
      x_from: state the network read, (B, C, H, W).
      eps_t: predicted noise after the x_0 rule, what moved the state, same shape.
      x_to: state after the move, same shape.
    """

    step: int
    x_from: Tensor
    eps_t: Tensor
    x_to: Tensor


OnStep = Callable[[StepRecord], None]
