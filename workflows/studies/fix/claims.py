"""Claims C4: what the fix repairs, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taba_core.conventions import ForwardLevel
from taba_core.stats.estimate import Estimate
from taba_core.stats.verdict import every, positive
from workflows.analysis.closed_form import FLAT_VARIANCE, flat_mode_std
from workflows.analysis.findings import Findings, interval_numbers
from workflows.configuration.context import Context


def find_claims(
    found: Findings,
    noise: Mapping[str, Estimate],
    rows: Mapping[tuple[str, int], Mapping[str, Estimate]],
    sweep: Sequence[int],
    context: Context,
    steps: int,
) -> None:
    """Test claims C4 on the intervals of the measured rows; T = `steps`."""
    rules = context.forward_rules
    plain = rows[rules[0], 0]
    above = plain["correlation"] - 1.5 * noise["correlation"]
    found.claim(
        "C4a",
        "Without the fix latents are correlated: corr(K=0) ≥ 1.5 corr(noise).",
        positive(above),
        interval_numbers("difference", above),
    )
    four_percent = [k for k in sweep if k >= 0.04 * steps]
    for rule in rules:
        gaps = {k: 1.1 * noise["correlation"] - rows[rule, k]["correlation"] for k in four_percent}
        found.claim(
            f"C4b-{rule}",
            f"The fix brings correlation to its floor: corr(K) ≤ 1.10 corr(noise) for K ≥ 4 % of T, {rule} rule.",
            every(positive(gap) for gap in gaps.values()),
            {f"K={k}": interval_numbers("margin", gap) for k, gap in gaps.items()},
            _why_above({k: positive(gap) for k, gap in gaps.items()}, context, steps, rule),
        )
        # Under the exact rule K = 2 % adds noise of the first level only, too little to matter.
        percent = 2 if rule == "matched" else 4
        counted = [k for k in sweep if 100 * k >= percent * steps]
        halves = {k: 0.5 * plain["kl"] - rows[rule, k]["kl"] for k in counted}
        found.claim(
            f"C4c-{rule}",
            f"The fix at least halves the divergence: KL(K) < 0.5 KL(0) for K ≥ {percent} % of T, {rule} rule.",
            every(positive(half) for half in halves.values()),
            {f"K={k}": interval_numbers("margin", half) for k, half in halves.items()},
        )
        if len(sweep) > 1:
            cost = rows[rule, sweep[-1]]["mae"] - rows[rule, sweep[0]]["mae"]
            found.claim(
                f"C4d-{rule}",
                f"More replaced steps cost reconstruction: error(K={sweep[-1]}) ≥ error(K={sweep[0]}), {rule} rule.",
                positive(cost),
                interval_numbers("difference", cost),
            )


def _why_above(verdicts: Mapping[int, str], context: Context, steps: int, rule: ForwardLevel) -> str:
    """What the closed form of one flat mode says about the K that did not bring correlation to its floor."""
    reasons = []
    for count, verdict in verdicts.items():
        std = flat_mode_std(context, steps, count, rule)
        if verdict != "holds" and std is not None:
            reasons.append(f"K={count} ({verdict}) leaves it std {std:.2f}")
    if not reasons:
        return ""
    return (
        f"A flat mode (variance {FLAT_VARIANCE:g}) needs std 1; in closed form, under the {rule} rule, "
        f"{', '.join(reasons)}: the rest of the plain areas' structure stays in the latent."
    )
