"""The way out that messages name where weights contradict a card: the line of a card that mends it."""

from __future__ import annotations

from pathlib import Path

from taba_core.models.cards import Card, raw_cards


def correction(card: Card, directory: Path, line: str) -> str:
    """The way out for weights that contradict a card, in words: which card to write, or how to correct the card.

    Args:
      directory: where the weights are.
      line: field and value that the card should have, as YAML.
    """
    if card.name not in raw_cards():
        return f"Correct the card: `{line}`"
    return (
        f"Use the card's weights, or a card of your own with `extends: {card.name}`, `weights: {directory}` "
        f"and `{line}`"
    )
