"""Models as a report groups and describes them: closed forms, small trained networks, published networks."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from taba_core.models.cards import Card
from taba_core.models.catalog import list_cards
from workflows.analysis.presentation import Model

CLOSED, SMALL, REAL = "Closed-form models", "Small trained networks", "Real models"
GROUPS = (CLOSED, SMALL, REAL)


@functools.cache
def _cards() -> Mapping[str, Card]:
    return {card.name: card for card in list_cards()}


def group_of(model: str) -> str:
    """The group of a model by its name; one that taba has no card for is somebody's own network, and a real one."""
    card = _cards().get(model)
    if card is None:
        return REAL
    return CLOSED if card.embedded else SMALL if card.runs_anywhere else REAL


def describe(name: str, title: str, spec: Mapping[str, Any]) -> Model:
    """What a report says of a model.

    Args:
      spec: the specification of a result: the card's name, or the user's own card, with the options.
    """
    card = (
        Card.model_validate(spec["card"]) if spec.get("card") else _cards().get(str(spec.get("name", name)))
    )
    options = {f"option {key}": value for key, value in dict(spec.get("options") or {}).items()}
    if card is None:
        return Model(name, title, tuple(options.items()))
    latent = card.domain == "latent"
    facts = {
        "Kind": group_of(name).lower().removesuffix("s"),
        "Backbone": card.backbone,
        "Parameters": f"{card.num_parameters / 1e6:.1f} million",
        "Diffusion": "in the latent space of an autoencoder" if latent else "of pixels",
        "Image": f"{card.image_size} × {card.image_size} pixels",
        "State C×H×W": "×".join(map(str, card.sample_shape)),
        "Trained on": card.train_set,
        "Condition": card.conditional,
        "Prediction": card.prediction,
        "Noise schedule": f"{card.schedule.kind}, {card.schedule.N} training steps",
        "Weights": _weights(card),
    }
    return Model(name, title, tuple((facts | options).items()))


def _weights(card: Card) -> str:
    weights = card.weights
    told = {
        "embedded": "none: the denoiser is a closed form",
        "package": "installed with taba",
        "trained": "trained in the store (`taba train`)",
        "path": weights.location,
    }
    return told.get(weights.source) or f"{weights.location} (`taba fetch {card.name}`)"
