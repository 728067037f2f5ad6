"""Claims CF16 to CF19: what settles early in a training, and what is lost while it goes on.

Every margin has its interval over images within a training; a claim must hold of every training that was made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taba_core.stats.attractors import binomial_interval, share_above
from taba_core.stats.estimate import Estimate
from taba_core.stats.triangle import VERTICES
from taba_core.stats.verdict import all_positive, every, positive
from taba_core.verdicts import Verdict
from workflows.analysis.findings import Findings, interval_numbers
from workflows.studies.training.measures import ALIGNMENTS, DISTANCES, Measured

_SETTLED, _ANGLE, _DISTANCE = 0.1, 5.0, 0.1  # share of the training; degrees; share of the final distance
_FOUND, _LOST, _FIRST = (
    0.95,
    0.20,
    0.01,
)  # accuracies, and the share within which a checkpoint is among the first
_ALIGNED, _PLATEAU, _SVCCA = (
    0.2,
    0.9,
    0.8,
)  # share of the training; of the plateau; least alignment from then on

# A training's numbers and verdict of one claim.
_Judged = tuple[Verdict, Mapping[str, Any]]
_NO_CHECKPOINT: _Judged = ("not resolved", {})


def find_claims(found: Findings, measured: Sequence[Measured]) -> None:
    """Test all claims on the intervals of every training."""
    _claim(
        found,
        "CF16a",
        f"The angle at x^T settles early: after {_SETTLED:.0%} of the training it is within ±{_ANGLE:g}° of its final "
        "value.",
        measured,
        _angle_settles,
    )
    _claim(
        found,
        "CF16b",
        f"So does the distance of noise and latent: after {_SETTLED:.0%} of the training ‖x^T - x̂^T‖ is within "
        f"±{_DISTANCE:.0%} of its final value.",
        measured,
        _distance_settles,
    )
    _claim(
        found,
        "CF17a",
        f"Images find their noise at every point of the training: acc(x^0 → x^T) is at least {_FOUND:.0%}.",
        measured,
        _images_find,
    )
    _claim(
        found,
        "CF17b",
        f"Noise loses its image while the network learns: acc(x^T → x^0) of the first checkpoints (within "
        f"{_FIRST:.0%} of the training) is at least {_LOST * 100:.0f} points above that of the final network.",
        measured,
        _noise_loses,
    )
    _claim(
        found,
        "CF18a",
        f"Generations align with the final ones early: within {_ALIGNED:.0%} of the training every measure reaches "
        f"{_PLATEAU:.0%} of its plateau, which is its value at the last checkpoint before the final network.",
        measured,
        _reaches_plateau,
    )
    _claim(
        found,
        "CF18b",
        f"From then on SVCCA is at least {_SVCCA:g}.",
        measured,
        _svcca_stays,
    )
    _claim(
        found,
        "CF19",
        f"After {_SETTLED:.0%} of the training what changes is fine detail: the power of the difference from the final "
        "images moves above half the Nyquist frequency (the ratio high to low grows).",
        measured,
        _power_moves_up,
    )


def between(of: Measured, share: float) -> list[int]:
    """Checkpoints from a share of the training on, without the final one, which is what they are compared with."""
    return [s for s in range(len(of.share) - 1) if of.share[s] >= share]


def _claim(
    found: Findings,
    id: str,
    statement: str,
    measured: Sequence[Measured],
    judge: Callable[[Measured], _Judged],
) -> None:
    judged = {f"training seed {of.seed}": judge(of) for of in measured}
    numbers: dict[str, Any] = {name: dict(own) for name, (_, own) in judged.items() if own}
    margins = [own["margin"] for own in numbers.values() if "margin" in own]
    seen = max(of.images for of in measured)
    notes = [f"Shares are of a training that sees {seen:,} images."]
    if len(measured) == 1:
        notes.append("One training seed: the spread between trainings is not known.")
    elif len(margins) > 1:
        numbers["spread of the margin over training seeds"] = float(np.std(margins, ddof=1))
    if len(numbers) == 0 or any(not own for _, own in judged.values()):
        notes.append("No checkpoint lies where the claim looks; give more of them (training.checkpoints).")
    found.claim(id, statement, every(verdict for verdict, _ in judged.values()), numbers, " ".join(notes))


def _angle_settles(of: Measured) -> _Judged:
    at_noise = [angle[VERTICES.index("noise")] for angle in of.values["angle"]]
    margins = {s: _ANGLE - abs(at_noise[s] - at_noise[-1]) for s in between(of, _SETTLED)}
    return _all_above(of, margins) if margins else _NO_CHECKPOINT


def _distance_settles(of: Measured) -> _Judged:
    def margins(which: str) -> dict[int, Estimate]:
        sides = [distance[DISTANCES.index(which)] for distance in of.values["distance"]]
        return {s: _DISTANCE - abs(sides[s] / sides[-1] - 1) for s in between(of, _SETTLED)}

    own = margins("noise_latent")
    if not own:
        return _NO_CHECKPOINT
    verdict, numbers = _all_above(of, own)
    other, beside = _all_above(of, margins("image_latent"))
    return verdict, {**numbers, "of x^0 and x̂^T": {**beside, "verdict": other}}


def _images_find(of: Measured) -> _Judged:
    found = of.hits["image_noise"]
    verdict = every(share_above(int(hit.sum()), len(hit), _FOUND) for hit in found)
    worst = int(np.argmin([hit.sum() for hit in found]))
    return verdict, {**_share("smallest", found[worst]), "at share": float(of.share[worst])}


def _noise_loses(of: Measured) -> _Judged:
    accuracies, found = of.accuracy["noise_image"], of.hits["noise_image"]
    first = [s for s in range(len(of.share) - 1) if s == 0 or of.share[s] <= _FIRST]
    if not first:
        return _NO_CHECKPOINT
    margin = Estimate.stack([accuracies[s] for s in first]).mean(0) - accuracies[-1] - _LOST
    ends = {"first": found[0], "final": found[-1]}
    shares = {name: value for end, hit in ends.items() for name, value in _share(end, hit).items()}
    return positive(margin), {**interval_numbers("margin", margin), **shares, "first checkpoints": len(first)}


def _reaches_plateau(of: Measured) -> _Judged:
    at = _aligned_at(of)
    if at is None or at == len(of.share) - 2:  # no later one, whose value would be the plateau
        return _NO_CHECKPOINT
    numbers: dict[str, Any] = {"at share": float(of.share[at])}
    verdicts = []
    for name in _aligned(of):
        values = of.values[name]
        margin = values[at] - _PLATEAU * values[-2]
        verdicts.append(positive(margin))
        numbers[name] = {
            **interval_numbers("margin", margin),
            "value": float(values[at]),
            "plateau": float(values[-2]),
            "untrained": float(values[0]),
        }
    return every(verdicts), numbers


def _svcca_stays(of: Measured) -> _Judged:
    at = _aligned_at(of)
    if at is None:
        return _NO_CHECKPOINT
    return _all_above(of, {s: of.values["svcca"][s] - _SVCCA for s in range(at, len(of.share) - 1)})


def _aligned_at(of: Measured) -> int | None:
    """The last trained checkpoint within the share of the training by which generations should be aligned."""
    within = [s for s in range(len(of.share) - 1) if 0 < of.share[s] <= _ALIGNED]
    return within[-1] if within else None


def _power_moves_up(of: Measured) -> _Judged:
    later = between(of, _SETTLED)
    if len(later) < 2:
        return _NO_CHECKPOINT
    ratio = of.values["power_ratio"]
    growth = (ratio[later[-1]] / ratio[later[0]]).log()
    ends = {"untrained": 0, "from": later[0], "to": later[-1]}
    numbers = {
        name: value for end, s in ends.items() for name, value in interval_numbers(end, ratio[s]).items()
    }
    shares = {"from share": float(of.share[later[0]]), "to share": float(of.share[later[-1]])}
    return positive(growth), {**interval_numbers("margin", growth), **numbers, **shares}


def _all_above(of: Measured, margins: Mapping[int, Estimate]) -> _Judged:
    """Whether every margin is above 0, and the smallest of them."""
    worst = min(margins, key=lambda s: float(margins[s]))
    verdict = all_positive(Estimate.stack(list(margins.values())))
    return verdict, {**interval_numbers("margin", margins[worst]), "at share": float(of.share[worst])}


def _aligned(of: Measured) -> Iterable[str]:
    return (name for name in ALIGNMENTS if name in of.values)


def _share(name: str, hit: NDArray[np.bool_]) -> dict[str, Any]:
    return {name: float(hit.mean()), f"{name}_ci95": list(binomial_interval(int(hit.sum()), len(hit)))}
