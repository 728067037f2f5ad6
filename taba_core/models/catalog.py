"""Which cards there are: the built-in ones by name, and a user's own by path."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from taba_core.errors import unknown_name
from taba_core.models.cards import Card, raw_cards
from taba_core.models.user_cards import card_at, looks_like_path


@cache
def _cards() -> dict[str, Card]:
    return {name: Card(name=name, **fields) for name, fields in raw_cards().items()}


def list_cards() -> list[Card]:
    """All built-in cards, the embedded models first, then in the order of the paper's Table 1."""
    return list(_cards().values())


def load_card(name: str) -> Card:
    """The card of a model: a built-in one by name, or one's own by path (a YAML card, a diffusers directory).

    Raises:
      UsageError: no model has this name (the message lists the nearest and all names), or no such card.

    >>> card = taba_core.load_card("dit")
    >>> card.title, card.sample_shape
    ('DiT', (4, 32, 32))
    """
    cards = _cards()
    if name in cards:
        return cards[name]
    if looks_like_path(name):
        return card_at(Path(name))
    raise unknown_name("model", name, cards)
