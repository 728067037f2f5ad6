"""Networks that were trained, at the points of their training that were kept: what study `training` compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from taba_core.errors import UsageError
from taba_core.model_spec import ModelSpec

if TYPE_CHECKING:
    from workflows.configuration.context import Context


@dataclass(frozen=True)
class Checkpoint:
    """A network at one point of its training.

    Attributes:
      step: optimiser steps done.
      images: images seen.
      share: share of the training that is done, 0 to 1: images seen over those that the whole training sees.
      model: name, options, fingerprint of the content, location and card.
      held_out: mean squared errors of the noise predictions on held-out crops at levels 0, 1 and 2 of the grid of 50
        steps; 1 is no knowledge.
    """

    step: int
    images: int
    share: float
    model: ModelSpec
    held_out: tuple[float, ...]


@dataclass(frozen=True)
class TrainedRun:
    """One training.

    Attributes:
      seed: of initial weights and all draws.
      checkpoints: ascending; the last one is the final network.
      loss_steps, loss: the loss after so many steps, the mean since the entry before.
    """

    seed: int
    checkpoints: tuple[Checkpoint, ...]
    loss_steps: tuple[int, ...]
    loss: tuple[float, ...]


def trained_runs(context: Context) -> tuple[TrainedRun, ...]:
    """The trainings that the options of study `training` ask for, one a training seed.

    Raises:
      UsageError: the model of the context is none that is trained here.
    """
    raise UsageError(f"{context.title}: no training of this model is known here.")
