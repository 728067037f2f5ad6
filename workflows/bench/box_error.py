"""Errors of the networks that come with taba on crops held out of training, beside exact denoisers of simpler data.

At each of ten levels of the grid of 50 steps: the mean of (eps_hat - eps)^2, 1 for a prediction of nothing. The Wiener
filter knows mean and covariance of the training crops; the photo mixture has seen the strip that is held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from workflows.bench.paired import Measurement, TableRow

if TYPE_CHECKING:
    from taba_core.models.cards import Card

BOX = ("photo-adm", "photo-ldm", "photo-dit", "photo-flow", "photo-if")
SEED = 7


def measure(*, repeats: int = 1, num_samples: int = 256, networks: Sequence[str] = BOX) -> Measurement:
    """Held-out errors of the networks. Deterministic: `repeats` changes nothing.

    Figures: NETWORK-level-LEVEL-SIDE, where SIDE is network, wiener or mixture.
    """
    from taba_core.models.base import load_model
    from taba_core.models.catalog import load_card
    from taba_core.training.data import PHOTOGRAPHS, open_source
    from taba_core.training.heldout import LEVELS, compare, fitted_wiener

    rows, figures, photos, filters = [], {}, open_source(PHOTOGRAPHS), {}
    for name in networks:
        card, model = load_card(name), load_model(name)
        space = _space(card)
        if space not in filters:
            filters[space] = fitted_wiener(model, card, photos, seed=SEED)
        found = compare(model, card, photos, filters[space], count=num_samples, seed=SEED)
        rows.append(TableRow(card.title, f"{num_samples} crops", "alpha_bar", _line(found.alpha_bar)))
        for side in ("network", "wiener", "mixture"):
            errors = getattr(found, side)
            if errors is not None:
                rows.append(TableRow("", "", side, _line(errors)))
                figures |= {
                    f"{name}-level-{level}-{side}": e for level, e in zip(LEVELS, errors, strict=True)
                }
    return Measurement(tuple(rows), figures)


def _space(card: Card) -> str:
    """What the states of a network are: pixels of a size, or latents of an autoencoder."""
    from taba_core.models.weights import content_hash, stored_at

    return f"{card.sample_shape}" if card.domain == "pixel" else content_hash(stored_at(card) / "vae")


def _line(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)
