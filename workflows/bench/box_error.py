"""Errors of the networks that come with taba on crops held out of training, beside exact denoisers of simpler data.

At each of ten levels of the grid of 50 steps: the mean of (eps_hat - eps)^2, 1 for a prediction of nothing. The Wiener
filter knows mean and covariance of the training crops; the photo mixture has seen the strip that is held out.
"""

from __future__ import annotations

from workflows.bench.paired import Measurement, Row

BOX = ("photo-adm", "photo-ldm", "photo-dit", "photo-if")
SEED = 7


def measure(*, repeats: int = 1, num_samples: int = 256, fitted: int = 10_000) -> Measurement:
    """Held-out errors of the four networks. Deterministic: `repeats` changes nothing.

    Figures: NETWORK-level-LEVEL-SIDE, where SIDE is network, wiener or mixture.
    """
    from taba_core.models.base import load_model
    from taba_core.models.catalog import load_card
    from taba_core.models.photos import load_photos
    from taba_core.training.heldout import LEVELS, compare

    rows, figures = [], {}
    for name in BOX:
        card = load_card(name)
        found = compare(load_model(name), card, load_photos(), count=num_samples, fitted=fitted, seed=SEED)
        for side, errors in (
            ("network", found.network),
            ("wiener", found.wiener),
            ("mixture", found.mixture),
        ):
            if errors is None:
                continue
            label = f"{card.title}, levels {', '.join(map(str, LEVELS))}" if side == "network" else ""
            rows.append(Row(label, f"{num_samples} crops", side, " ".join(f"{e:.4f}" for e in errors)))
            figures |= {f"{name}-level-{level}-{side}": e for level, e in zip(LEVELS, errors, strict=True)}
    return Measurement(tuple(rows), figures)
