"""Which models can be guided, known without loading them: what a plan is checked against."""

from __future__ import annotations

from taba_core.models.cards import Card

# Families with classes that have a class of their own for "no class"; the other families with classes have none.
_NULL_CLASS = ("dit", "sit")


def why_no_null_condition(card: Card) -> str:
    """Why a model has no null condition for classifier-free guidance, as a clause; "" if it has one.

    A text model has the empty prompt, DiT and SiT have a null class, the photo mixture has "any photograph".
    Class-conditional U-Nets were trained with classes alone, and FLUX.1 was distilled: it has one prediction, which is
    guided already.
    `taba_core.diffusion.guidance.null_condition` says the same of a loaded model.
    """
    if card.conditional == "none":
        return f"{card.title} has no condition"
    if card.family == "flux":
        return _why_distilled(card.title, card.distilled_guidance)
    if card.conditional == "text" or card.embedded or card.family in _NULL_CLASS:
        return ""
    return f"{card.title} has classes but no null class"


def _why_distilled(title: str, guidance: float | None) -> str:
    """Why a distilled network has no null condition, as a clause.

    Args:
      guidance: the w it is given; None of a network that is given none.
    """
    if guidance is None:
        return f"{title} was distilled to run without one"
    return (
        f"{title} was distilled under guidance, whose w is the field distilled_guidance of its card ({guidance:g}), "
        "the same in both directions"
    )
