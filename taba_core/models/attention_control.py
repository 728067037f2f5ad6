"""Which models an editor can control the attention of, known without loading them: what a plan is checked against."""

from __future__ import annotations

from taba_core.models.cards import Card

# Families whose U-Net attends to itself and to the text in layers of their own.
_CONTROLLED = ("sd", "sdxl")


def why_no_attention_control(card: Card) -> str:
    """Why no editor can control the attention of a model, as a clause; "" if one can.

    Editors take over maps, queries, keys or values of layers that attend to the image alone, or to the text alone, as
    those of Stable Diffusion and SDXL do.
    """
    if card.family in _CONTROLLED and not card.embedded:
        return ""
    if card.family == "if":
        return f"{card.title} attends to text and image in one softmax, so there is no map of either alone"
    if card.family in ("dit", "sit"):
        return f"{card.title} reads its class through its norms and attends to no text"
    if card.embedded:
        return f"{card.title} is a closed form without attention layers"
    return f"{card.title} attends to no text"
