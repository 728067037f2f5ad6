"""Claims on the smallest-distance mapping: who finds its own, and why noises and latents do not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from taba_core.stats.attractors import accuracy, binomial_interval, hits, share_above
from taba_core.stats.verdict import every, positive
from taba_core.verdicts import Verdict
from workflows.analysis.findings import Findings, interval_numbers
from workflows.studies.mapping.measures import DIRECTIONS, SHOWN, Mapped, Traits

_FEW, _MANY = 10, 100  # T at which the paper's noise still finds its image, and from which it does not
_HIGH, _LATENT_SPACE, _LOST, _HALF, _LOW = 0.99, 0.95, 0.90, 0.50, 0.70
_RAISE = 0.20

_BY_NORM = (
    "argmin_j |n - x_j|² = argmin_j (|x_j|² - 2 n·x_j): where norms differ by more than the products do, the images of "
    "smallest norm win every query. Here the greatest attractors are images of small norm"
)

_LITTLE_OF_ITS_NOISE = (
    "|x^0 - x_j^T|² = |x^0|² + |x_j^T|² - 2 x^0·x_j^T: an image finds its noise if its own product 2 x^0·x^T exceeds "
    "what the luckiest other noise gains, a few times the spread of |x_j^T|². Images that keep little of their noise "
    "do not (compare own_product_lost with own_product_found)."
)


def find_claims(
    found: Findings,
    mapped: Mapping[int, Mapped],
    traits: Traits,
    own: int,
    replicates: int,
    *,
    latent_space: bool,
) -> None:
    """C13a, b for pixel or for latent models, C13c, CF14."""
    if latent_space:
        for id, pair in (("C13a", "noise"), ("C13b", "latent")):
            directions = (f"image_{pair}", f"{pair}_image")
            found.claim(
                id,
                f"Image and {pair} find each other in a latent space: at least {_LATENT_SPACE:.0%}, both ways.",
                every(_above(of, d, _LATENT_SPACE) for of in mapped.values() for d in directions),
                _numbers(mapped, directions),
            )
    else:
        _pixel_claims(found, mapped, traits, own, replicates)
    _norm_claim(found, mapped, replicates)
    _attractor_claims(found, traits, own)


def _pixel_claims(
    found: Findings, mapped: Mapping[int, Mapped], traits: Traits, own: int, replicates: int
) -> None:
    image_noise = [_above(of, "image_noise", _HIGH) for of in mapped.values()]
    found.claim(
        "C13a-1",
        f"Images find their noise: acc(x^0 → x^T) is at least {_HIGH:.0%} at every T.",
        every(image_noise),
        _numbers(mapped, ("image_noise",)) | _own_products(mapped[own], traits),
        "" if every(image_noise) == "holds" else _LITTLE_OF_ITS_NOISE,
    )
    few, many = [T for T in mapped if T <= _FEW], [T for T in mapped if T >= _MANY]
    verdicts: list[Verdict] = []
    numbers = _numbers(mapped, ("noise_image",))
    for T in few[-1:]:
        verdicts.append(_above(mapped[T], "noise_image", _LOST))
        for more in many:
            drop = accuracy(mapped[T]["noise_image"]["l2"], num_replicates=replicates) - accuracy(
                mapped[more]["noise_image"]["l2"], num_replicates=replicates
            )
            verdicts.append(positive(drop))
            numbers |= interval_numbers(f"drop_{T}_to_{more}", drop)
    found.claim(
        "C13a-2",
        f"Noise finds its image after few steps and loses it after many: acc(x^T → x^0) at least {_LOST:.0%} at "
        f"T = {_FEW}, less at T ≥ {_MANY}.",
        every(verdicts) if few and many else "not resolved",
        numbers,
        _BY_NORM + ", at few steps as at many."
        if few and many
        else f"Needs T ≤ {_FEW} and T ≥ {_MANY} in mapping.steps.",
    )
    both = ("image_latent", "latent_image")
    found.claim(
        "C13b",
        f"Images and latents lose each other: both directions below {_LOST:.0%}, at least one below {_HALF:.0%}, at "
        "every T.",
        every(_lost(of) for of in mapped.values()),
        _numbers(mapped, both),
    )


def _lost(of: Mapped) -> Verdict:
    below = [_opposite(_above(of, d, _LOST)) for d in ("image_latent", "latent_image")]
    halves = [_opposite(_above(of, d, _HALF)) for d in ("image_latent", "latent_image")]
    either: Verdict = (
        "holds" if "holds" in halves else "fails" if set(halves) == {"fails"} else "not resolved"
    )
    return every((*below, either))


def _norm_claim(found: Findings, mapped: Mapping[int, Mapped], replicates: int) -> None:
    """Dividing by the candidate's norm must bring back what distance loses, wherever it loses much."""
    verdicts: list[Verdict] = []
    numbers: dict[str, object] = {}
    for T, of in mapped.items():
        if float(accuracy(of["noise_image"]["l2"], num_replicates=replicates)) >= _LOW:
            continue
        gain = accuracy(of["noise_image"]["cosine"], num_replicates=replicates) - accuracy(
            of["noise_image"]["l2"], num_replicates=replicates
        )
        verdicts.append(positive(gain - _RAISE))
        numbers |= interval_numbers(f"gain_T{T}", gain)
    found.claim(
        "C13c",
        f"Norms explain the loss: wherever distance finds less than {_LOW:.0%} of acc(x^T → x^0), cosine in its place "
        f"finds at least {_RAISE * 100:.0f} points more.",
        every(verdicts),
        numbers,
        ""
        if verdicts
        else f"At no T does distance find less than {_LOW:.0%}, so there is nothing to explain.",
    )


def _attractor_claims(found: Findings, traits: Traits, own: int) -> None:
    overlap, by_norm = traits.overlap["noise"], traits.overlap_norm["noise"]
    found.claim(
        "CF14a",
        f"Of the {SHOWN} images that attract most noises some are among the {SHOWN} of least variance (T = {own}).",
        positive(overlap - 0.5),
        interval_numbers("least_variance", overlap) | interval_numbers("smallest_norm", by_norm),
        ""
        if positive(overlap - 0.5) == "holds"
        else f"{_BY_NORM}: {float(by_norm):.0f} of the {SHOWN} are among the {SHOWN} of smallest norm. Images of least "
        "variance have a small norm only if they are also near mid-grey, the origin of the model's space.",
    )
    rho = traits.rank_correlation["noise"]
    found.claim(
        "CF14b",
        "Images attract the more noises the smaller their norm: the rank correlation is negative.",
        positive(-rho),
        interval_numbers("rank_correlation", rho)
        | interval_numbers("rank_correlation_latents", traits.rank_correlation["latent"]),
    )


def _above(of: Mapped, direction: str, bound: float) -> Verdict:
    hit = hits(of[direction]["l2"])
    return share_above(int(hit.sum()), len(hit), bound)


def _opposite(verdict: Verdict) -> Verdict:
    return {"holds": "fails", "fails": "holds", "not resolved": "not resolved"}[verdict]  # type: ignore[return-value]


def _numbers(mapped: Mapping[int, Mapped], directions: tuple[str, ...]) -> dict[str, object]:
    numbers: dict[str, object] = {}
    for T, of in mapped.items():
        for direction in directions:
            assert direction in DIRECTIONS
            hit = hits(of[direction]["l2"])
            numbers[f"{direction}_T{T}"] = float(np.mean(hit))
            numbers[f"{direction}_T{T}_ci95"] = list(binomial_interval(int(hit.sum()), len(hit)))
    return numbers


def _own_products(of: Mapped, traits: Traits) -> dict[str, object]:
    hit = hits(of["image_noise"]["l2"])
    means = {
        name: float(traits.own_product[which].mean()) if which.any() else float("nan")
        for name, which in (("own_product_found", hit), ("own_product_lost", ~hit))
    }
    return {**means, "spread_of_noise_squares": float(traits.noise_square.std())}
