"""Claims C7 (what the paper says of its Table 7) and our own: methods that are noise because they are exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from taba_core.conventions import ForwardLevel
from taba_core.stats.estimate import Estimate
from taba_core.stats.floor import correlation_floor
from taba_core.stats.verdict import every, positive
from taba_core.verdicts import Verdict
from workflows.analysis.findings import Findings, interval_numbers
from workflows.analysis.gaussianity import patch_features
from workflows.analysis.presentation import Claim
from workflows.configuration.context import Context
from workflows.studies.methods.rows import REGULARISED_PRIORS
from workflows.studies.methods.times import SECONDS_BY_SHARD

if TYPE_CHECKING:
    import xarray as xr

Rows = Mapping[str, Mapping[str, Estimate]]
RULES: tuple[ForwardLevel, ...] = ("exact", "matched")
PLAIN = 0


@dataclass(frozen=True)
class OurClaim:
    """A claim of our own against two replaced steps.

    Attributes:
      id, row, title: of the claim, the row it is made for, and that row in a sentence.
      most_evaluations: at most so many times the evaluations.
      error_share, recon_share: at most so much of the noise error in plain areas, and of the reconstruction error.
    """

    id: str
    row: str
    title: str
    most_evaluations: float
    error_share: float
    recon_share: float


# N1 was written down before any row had been computed. N2 and N3 are of methods found in trying to beat it, and came
# after a first look at them: what tests those two is another seed than the default one.
OURS = (
    OurClaim("N1", "noise-initialised", "the noise-initialised fixed point", 2.4, 1 / 2, 1 / 5),
    OurClaim("N2", "predictor-corrector", "prediction-correction", 1.5, 1 / 10, 1 / 5),
    OurClaim("N3", "noise-projection", "projection of the implied noise", 1.05, 1 / 2, 1 / 3),
)


def find_claims(
    found: Findings,
    noise: Mapping[str, Estimate],
    rows: Rows,
    context: Context,
) -> None:
    """Test every claim whose rows were asked for."""
    for rule in RULES:
        if {"ddim", f"forward-1-{rule}", f"forward-2-{rule}"} <= rows.keys():
            _paper(found, noise, rows, rule)
    priors = [name for name in REGULARISED_PRIORS if name in rows]
    if priors:
        above = {name: rows[name]["correlation"] - 1.2 * noise["correlation"] for name in priors}
        found.claim(
            "C7e",
            f"Regularised priors stay correlated: corr > 1.2 corr(noise) for {', '.join(priors)}.",
            every(positive(one) for one in above.values()),
            {name: interval_numbers("margin", one) for name, one in above.items()},
            "" if len(priors) == len(REGULARISED_PRIORS) else "Not all of the paper's rows were asked for.",
        )
    floor = correlation_floor(context.num_samples, patch_features(context), context.settings.top_k).mean
    for claim in OURS:
        for rule in RULES:
            if {claim.row, f"forward-2-{rule}"} <= rows.keys():
                _ours(found, rows, floor, rule, claim)


def _paper(found: Findings, noise: Mapping[str, Estimate], rows: Rows, rule: str) -> None:
    ddim, two, four = rows["ddim"], rows[f"forward-1-{rule}"], rows[f"forward-2-{rule}"]
    steps = {"KL(K=1) - KL(K=2)": two["kl"] - four["kl"], "KL(DDIM) - KL(K=1)": ddim["kl"] - two["kl"]}
    found.claim(
        f"C7a-{rule}",
        f"The fix lowers the divergence step by step: KL(K=2) < KL(K=1) < KL(DDIM), {rule} rule "
        "(paper .38, .71, .89).",
        every(positive(step) for step in steps.values()),
        {name: interval_numbers("difference", step) for name, step in steps.items()},
    )
    left = noise["correlation"] + 0.02 - four["correlation"]
    found.claim(
        f"C7b-{rule}",
        f"Two replaced steps bring correlation to that of noise: corr(K=2) ≤ corr(noise) + .02, {rule} rule.",
        positive(left),
        interval_numbers("margin", left),
    )
    if np.isfinite(ddim["psnr"].value):
        prices = {1: 0.8 - (ddim["psnr"] - two["psnr"]), 2: 2.5 - (ddim["psnr"] - four["psnr"])}
        found.claim(
            f"C7c-{rule}",
            f"It costs little reconstruction: PSNR falls by at most .8 dB (K=1) and 2.5 dB (K=2), {rule} rule "
            "(paper .46 and 1.90).",
            every(positive(price) for price in prices.values()),
            {f"K={k}": interval_numbers("margin", price) for k, price in prices.items()},
        )


def time_claims(
    label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]
) -> tuple[Claim, ...]:
    """C7d, on times: of the ledger, not of the result."""
    rows = {str(name) for name in result["row"].values}
    return tuple(
        _time_claim(label, result, index, rule)
        for rule in RULES
        if "seconds" in result and {"ddim", f"forward-1-{rule}", f"forward-2-{rule}"} <= rows
    )


def _time_claim(label: str, result: xr.Dataset, index: int, rule: str) -> Claim:
    names = ("ddim", f"forward-1-{rule}", f"forward-2-{rule}")
    evaluations = [float(result["evaluations"].sel(row=name)) for name in names]
    verdict, numbers = proportional([result.attrs[SECONDS_BY_SHARD][name] for name in names], evaluations)
    return Claim(
        id=f"C7d-{rule}" + ("" if index == 0 else f", {label}"),
        base=f"C7d-{rule}",
        label=label,
        statement=f"Time is proportional to evaluations: seconds an evaluation agree within 1 %, {rule} rule.",
        verdict=verdict,
        numbers=numbers,
        explanation=""
        if verdict != "not resolved"
        else "One time a shard; their scatter is wider, or unknown.",
        study=str(result.attrs["study"]),
        model=str(result.attrs["model"]),
        result=str(result.attrs.get("name", "")),
    )


def proportional(
    seconds: Sequence[Sequence[float]], evaluations: Sequence[float], within: float = 0.01
) -> tuple[Verdict, dict[str, object]]:
    """Do seconds an evaluation of several inversions agree within a share of their mean?

    Args:
      seconds: of an image, by shard, for each inversion.
      evaluations: of an image, for each inversion.

    Judged on the times of the shards: a mean over m shards has the 95 % interval mean +- 2 s / sqrt(m). One shard has
    no scatter, and resolves nothing.
    """
    rates = [np.asarray(times) / count for times, count in zip(seconds, evaluations, strict=True)]
    means = np.array([rate.mean() if rate.size else np.nan for rate in rates])
    numbers: dict[str, object] = {"seconds_an_evaluation": means.tolist()}
    if any(rate.size < 2 for rate in rates):
        return "not resolved", numbers
    error = np.array([2 * rate.std(ddof=1) / np.sqrt(rate.size) for rate in rates])
    apart, unsure = np.ptp(means) / means.mean(), 2 * error.max() / means.mean()
    numbers |= {"apart": float(apart), "uncertainty": float(unsure)}
    verdict: Verdict = (
        "holds" if apart + unsure <= within else "fails" if apart - unsure > within else "not resolved"
    )
    return verdict, numbers


def _ours(found: Findings, rows: Rows, floor: float, rule: str, claim: OurClaim) -> None:
    """A method of ours against two replaced steps; under the exact rule this is the claim."""
    ours, theirs = rows[claim.row], rows[f"forward-2-{rule}"]
    std, true = ours["std_region"][PLAIN], ours["std_noise"][PLAIN]
    margins = {
        "evaluations": claim.most_evaluations * theirs["evaluations"] - ours["evaluations"],
        "noise error, plain": claim.error_share * theirs["error"][PLAIN] - ours["error"][PLAIN],
        "reconstruction": claim.recon_share * theirs["mae"] - ours["mae"],
        "correlation, distance to floor": abs(theirs["correlation"] - floor)
        - abs(ours["correlation"] - floor),
        "std, distance to that of the noise, plain": abs(theirs["std_region"][PLAIN] - true)
        - abs(std - true),
    }
    verdicts = {name: _reached(margin) for name, margin in margins.items()}
    statement = (
        f"Ours: at ≤ {claim.most_evaluations:g} times the evaluations of two replaced steps ({rule} rule), "
        f"{claim.title} has ≤ 1/{1 / claim.error_share:.0f} of their noise error in plain areas and "
        f"≤ 1/{1 / claim.recon_share:.0f} of their reconstruction error, a correlation nearer the floor and a plain "
        "standard deviation nearer that of the noise."
    )
    failed = [name for name, verdict in verdicts.items() if verdict != "holds"]
    found.claim(
        f"{claim.id}-{rule}",
        statement,
        every(verdicts.values()),
        {f"{name}: margin": interval_numbers("margin", margin) for name, margin in margins.items()}
        | {
            f"{name}, ours and theirs": _both(ours, theirs, name)
            for name in ("evaluations", "error", "mae", "correlation", "std_region")
        },
        f"Not so: {', '.join(failed)}." if failed else "",
    )


def _both(ours: Mapping[str, Estimate], theirs: Mapping[str, Estimate], name: str) -> list[float]:
    """The number of ours and of theirs, in plain areas where it is one by region."""
    return [float(row[name].value.flat[PLAIN]) for row in (ours, theirs)]


def _reached(margin: Estimate) -> Verdict:
    """Whether a margin is reached; an exact 0 is."""
    low, high = margin.interval(0.95)
    return "holds" if low == high == 0 else positive(margin)
