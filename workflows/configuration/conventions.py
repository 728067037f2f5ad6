"""The conventions of a run: a preset, and what the user chose otherwise."""

from __future__ import annotations

from taba_core.conventions import EXACT, Conventions, HeldQuantity, no_velocity
from taba_core.errors import UsageError
from taba_core.models.cards import Card
from workflows.configuration.settings import Settings


def chosen_conventions(card: Card, settings: Settings) -> Conventions:
    """The model's reference choices or the exact ones, with the fields that the user set laid over them.

    Raises:
      UsageError: choices that do not go together, or held=velocity of a model that predicts the noise alone.
    """
    preset = card.reference if settings.conventions == "reference" else EXACT
    chosen = {name: getattr(settings, name) for name in Conventions.model_fields}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    try:
        asked = Conventions.model_validate(preset.model_dump() | chosen)
    except ValueError as error:
        raise UsageError(str(error).split("Value error, ")[-1].split(" [type=")[0]) from None
    return asked.model_copy(update={"held": own_or_other(asked.held, card)})


def own_or_other(held: HeldQuantity, card: Card) -> HeldQuantity:
    """The choice, or `auto` where it changes nothing on this model, so that one artifact has one key.

    A network that predicts the noise carries it, and any other the velocity. On the levels of a variance-preserving
    model states have the power of 1, so that noise-vp is noise.

    Raises:
      UsageError: held=velocity of a model that predicts the noise alone.
    """
    if card.prediction == "epsilon":
        if held == "velocity":
            raise UsageError(no_velocity(card.title))
        return "auto"
    if held == "velocity":
        return "auto"
    return "noise" if held == "noise-vp" and card.schedule.kind != "flow" else held
