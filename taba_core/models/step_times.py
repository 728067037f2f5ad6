"""Seconds of one network evaluation by model, profile and batch: what was measured, and estimates of the rest.

A card's own cost is what the paper measured, under `reference`. The data file has what was measured since.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files

import yaml
from pydantic import BaseModel, ConfigDict, Field

from taba_core.models.base import own_card
from taba_core.models.cards import Card
from taba_core.models.catalog import load_card
from taba_core.models.profile import GPU_PROFILE, ProfileName


class StepTime(BaseModel):
    """One line of the data file.

    Attributes:
      seconds: of one evaluation of a batch of `batch` images.
      card: the graphics card's name, as its driver says it.
      date: of the measurement.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    profile: ProfileName
    compiled: bool
    batch: int = Field(ge=1)
    seconds: float = Field(gt=0)
    card: str
    date: date


@dataclass(frozen=True)
class StepCost:
    """What one evaluation costs, and how that is known.

    Attributes:
      step_seconds: seconds of one evaluation of a batch.
      batch_size: images in that batch.
      source: the machine, or what the estimate is made from.
    """

    step_seconds: float
    batch_size: int
    source: str

    @property
    def image_seconds(self) -> float:
        """Seconds per image and network evaluation."""
        return self.step_seconds / self.batch_size


def step_cost(card: Card, profile: str, *, compiled: bool = False, device: str = "cuda") -> StepCost:
    """Seconds of an evaluation under a profile: measured, else estimated from the card's own cost.

    The card's own cost holds for its home, which is a CPU of models that run anywhere, and of others a GPU under
    `reference`. A measured time takes its place under `reference` where it was measured on the same graphics card.

    Args:
      profile: the profile's name; "" of a closed form.
      compiled: whether the network goes through torch.compile.
      device: cpu or cuda.
    """
    own = StepCost(card.cost.step_seconds, card.cost.batch_size, card.cost.measured_on)
    if card.runs_anywhere:
        return own
    if device == "cpu":
        return StepCost(own.step_seconds, own.batch_size, f"{own.source}; a CPU takes many times as long")
    found = _measured(card, profile, compiled)
    if profile == GPU_PROFILE and not compiled:
        return found if found and found.source.startswith(f"{card.cost.measured_on},") else own
    if found:
        return found
    name = f"{profile}, compiled" if compiled else profile
    ratio = _typical_ratio(profile, compiled)
    source = f"estimate for {name} from the time under {GPU_PROFILE}: {card.cost.measured_on}"
    return StepCost(own.step_seconds * ratio, own.batch_size, source)


@cache
def step_times() -> tuple[StepTime, ...]:
    """The data file's lines."""
    text = files("taba_core.models").joinpath("step_times.yaml").read_text(encoding="utf-8")
    return tuple(StepTime.model_validate(line) for line in yaml.safe_load(text))


def _measured(card: Card, profile: str, compiled: bool) -> StepCost | None:
    """The measured time whose batch is nearest to the card's own."""
    if own_card(card) is not None:  # a user's, under whatever name
        return None
    best = _nearest_batch(card, profile, compiled)
    return best and StepCost(best.seconds, best.batch, f"{best.card}, {best.date:%Y-%m-%d}")


def _nearest_batch(card: Card, profile: str, compiled: bool) -> StepTime | None:
    lines = [t for t in step_times() if (t.model, t.profile, t.compiled) == (card.name, profile, compiled)]
    return min(lines, key=lambda line: abs(line.batch - card.cost.batch_size), default=None)


@cache
def _typical_ratio(profile: str, compiled: bool) -> float:
    """Seconds an image over those of the card's own cost, the median of the models measured so; 1 if there are none."""
    cards = [load_card(name) for name in dict.fromkeys(line.model for line in step_times())]
    measured = [(card, _nearest_batch(card, profile, compiled)) for card in cards]
    ratios = [
        line.seconds / line.batch / card.cost.image_seconds for card, line in measured if line is not None
    ]
    return statistics.median(ratios) if ratios else 1.0
