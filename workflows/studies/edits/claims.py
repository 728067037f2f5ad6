"""Claims C6, C7 (its columns of alignment) and C12 on what stands in for the paper's measures, and our question.

A claim on stand-ins has "~" in its id: it says nothing of the paper's own measures, whose weights are not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from taba_core.stats.estimate import Estimate
from taba_core.stats.verdict import positive
from workflows.analysis.edit_measures import ALIGNMENT, DISTANCE, MAE, measure_named
from workflows.analysis.edits import LATENT, NOISE, Start
from workflows.analysis.findings import Findings, interval_numbers
from workflows.studies.edits.measures import Measured

_NEAR = 0.1  # a share of noise's value, within which a row counts as the same (claim C12)
_SHARE = 0.5  # of the gap between latent and noise that the repair closes (claim C12)
_FEW, _MANY = 0.04, 0.2  # shares of T that the claims are about: K = 2 and K = 10 of 50


def find_claims(
    found: Findings, measured: Measured, names: Sequence[str], starts: Sequence[Start], steps: int
) -> None:
    """Test the claims on intervals of paired differences; T = `steps`."""
    names = [name for name in names if not measure_named(name).follows]
    _edits_from_latents(found, measured, names)
    distances = [name for name in names if measure_named(name).group == DISTANCE]
    few, many = _at_least(starts, _FEW * steps), _at_least(starts, _MANY * steps)
    for start in few:
        gaps = {name: _closed(measured, name, start) for name in names}
        _claim(
            found,
            f"C12b~-{start.name}",
            f"Every measure moves from DDIM latents at least {_SHARE:.0%} of the way to noise ({_about(start)}).",
            gaps,
        )
    for start in many:
        _claim(
            found,
            f"C12a~-{start.name}",
            f"Every distance of edits from repaired latents is within {_NEAR:.0%} of noise's ({_about(start)}).",
            {name: _near_noise(measured, name, start) for name in distances},
        )
    for start in [*few, *(one for one in many if one not in few), *_methods(starts)]:
        _against_latents(found, measured, names, start)
    for start in _methods(starts):
        _claim(
            found,
            f"as-noise~-{start.name}",
            f"Every distance of edits from latents of {start.label} is within {_NEAR:.0%} of that from noise.",
            {name: _near_noise(measured, name, start) for name in distances},
        )


def _edits_from_latents(found: Findings, measured: Measured, names: Sequence[str]) -> None:
    """C6: by every measure alone, edits from latents stay closer to the source, and show less of the target."""
    for name in names:
        measure = measure_named(name)
        if name == MAE.name:  # ours, and no measure of the paper's
            continue
        more = measure.sign * (_mean(measured, NOISE, name) - _mean(measured, LATENT, name))
        which = "larger for edits from noise" if measure.sign == 1 else "larger for edits from DDIM latents"
        found.claim(
            f"C6{'~' if measure.proxy else ''}-{_id(name)}",
            f"{measure.label[0].upper()}{measure.label[1:]} is {which}"
            + (f" (stand-in for {measure.proxy})." if measure.proxy else "."),
            positive(more),
            interval_numbers("margin", more),
        )


def _against_latents(found: Findings, measured: Measured, names: Sequence[str], start: Start) -> None:
    """Our question of one start: are its edits farther from the source, and do they show more of the target?"""
    farther = {
        name: measure_named(name).sign * (_mean(measured, start.name, name) - _mean(measured, LATENT, name))
        for name in names
    }
    _claim(
        found,
        f"farther~-{start.name}",
        f"Edits are farther from their sources than those from DDIM latents, by every distance ({_about(start)}).",
        {name: margin for name, margin in farther.items() if measure_named(name).group == DISTANCE},
    )
    aligned = {
        name: margin
        for name, margin in farther.items()
        if measure_named(name).group == ALIGNMENT and name.endswith("_target")
    }
    if aligned:
        _claim(
            found,
            f"C7~-{start.name}",
            f"Edits show the target more than those from DDIM latents, by every judge ({_about(start)}).",
            aligned,
        )


def _claim(found: Findings, id: str, statement: str, margins: dict[str, Estimate]) -> None:
    """A conjunction of margins above 0, each with its interval."""
    found.claim_margins(
        id,
        statement,
        {measure_named(name).label: margin for name, margin in margins.items()},
    )


def _mean(measured: Measured, start: str, name: str) -> Estimate:
    return measured[start][name][0]


def _near_noise(measured: Measured, name: str, start: Start) -> Estimate:
    noise = _mean(measured, NOISE, name)
    return _NEAR * abs(noise) - abs(_mean(measured, start.name, name) - noise)


def _closed(measured: Measured, name: str, start: Start) -> Estimate:
    """How much more than the share of the gap is closed, in the measure's unit; noise may lie on either side."""
    noise, latent = (_mean(measured, of, name) for of in (NOISE, LATENT))
    towards = 1.0 if float(noise - latent) >= 0 else -1.0
    return towards * (_mean(measured, start.name, name) - latent - _SHARE * (noise - latent))


def _at_least(starts: Sequence[Start], count: float) -> list[Start]:
    """Of every rule the start with the fewest replaced steps that are at least so many."""
    enough = [start for start in starts if start.forward_steps and start.forward_steps >= count]
    first: dict[str, Start] = {}
    for start in sorted(enough, key=lambda start: start.forward_steps):
        first.setdefault(str(start.forward_level), start)
    return list(first.values())


def _methods(starts: Iterable[Start]) -> list[Start]:
    return [start for start in starts if start.method]


def _about(start: Start) -> str:
    return f"latents of {start.method}" if start.method else f"K = {start.label}, {start.forward_level} rule"


def _id(name: str) -> str:
    return name.replace("/", "-").replace("_", "-")
