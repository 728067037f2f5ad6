"""Which models can be guided, known without loading them: what a plan is checked against."""

from __future__ import annotations

from taba_core.models.cards import Card

# Families with classes that have a class of their own for "no class"; the other families with classes have none.
_NULL_CLASS = ("dit",)


def why_no_null_condition(card: Card) -> str:
    """Why a model has no null condition for classifier-free guidance, as a clause; "" if it has one.

    A text model has the empty prompt, DiT a null class, the photo mixture "any photograph". Class-conditional U-Nets
    were trained with classes alone. `taba_core.diffusion.guidance.null_condition` says the same of a loaded model.
    """
    if card.conditional == "none":
        return f"{card.title} has no condition"
    if card.conditional == "text" or card.embedded or card.family in _NULL_CLASS:
        return ""
    return f"{card.title} has classes but no null class"
