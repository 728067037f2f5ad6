"""Claims C8 (more steps help, and do not suffice) and CF9 (the error stays in plain areas)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from taba_core.stats.estimate import Estimate
from taba_core.stats.verdict import every, positive
from taba_core.verdicts import Verdict
from workflows.analysis.findings import Findings, interval_numbers
from workflows.configuration.context import Context

TAU = -0.8  # most that Kendall's tau of correlation against T may be for "it falls with T" to hold


def find_claims(
    found: Findings,
    noise: Mapping[str, Estimate],
    rows: Mapping[int, Mapping[str, Estimate]],
    context: Context,
) -> None:
    """Test the claims on the intervals of the rows of the fixed images, T ascending."""
    sweep = list(rows)
    for id, measure, text in (
        ("C8a", "correlation", "corr"),
        ("C8a-r2", "excess_r2", "excess r²"),
    ):
        verdict, numbers = decreasing([rows[T][measure] for T in sweep])
        found.claim(
            id,
            f"More inversion steps lower the correlation of latents: Kendall τ of {text} against T ≤ {TAU:g}.",
            verdict,
            {"T": sweep, **numbers},
        )
    last = sweep[-1]
    above = rows[last]["correlation"] - noise["correlation"]
    found.claim(
        "C8b",
        f"{last} steps do not suffice: corr(T={last}) - corr(noise) > 3 SE.",
        every((positive(above), positive(above - 3 * above.standard_error))),
        interval_numbers("difference", above) | {"three_SE": float(3 * above.standard_error)},
    )
    excess = rows[last]["excess_r2"] - noise["excess_r2"]
    found.claim(
        "C8c",
        f"The same without finite-sample bias: the excess r² of latents at T={last} is above that of noise.",
        positive(excess),
        interval_numbers("difference", excess),
    )
    errors = {T: rows[T]["error"][0] - rows[T]["error"][1] for T in sweep}
    found.claim(
        "CF9",
        "At every T the error |x^T - x̂^T| is larger in plain areas.",
        every(positive(e) for e in errors.values()),
        {f"T={T}": interval_numbers("difference", e) for T, e in errors.items()},
    )


def decreasing(values: list[Estimate]) -> tuple[Verdict, dict[str, object]]:
    """Is Kendall's tau of a series at most TAU? Judged on the pairs whose order the data resolve.

    tau = (rising - falling pairs) / all pairs. With u pairs unresolved tau lies within (rising - falling -+ u) / all:
    the claim holds if even the upper end is at most TAU, fails if even the lower end is above it.
    """
    orders = [_order(a, b) for a, b in combinations(values, 2)]
    if not orders:
        return "not resolved", {"pairs": 0}
    falling, rising, pairs = orders.count(-1), orders.count(1), len(orders)
    unresolved = pairs - falling - rising
    low, high = (rising - falling - unresolved) / pairs, (rising - falling + unresolved) / pairs
    point = float(np.mean([np.sign(float(b.value) - float(a.value)) for a, b in combinations(values, 2)]))
    numbers = {"tau": point, "tau_ci95": [low, high], "pairs": pairs, "unresolved": unresolved}
    verdict: Verdict = "holds" if high <= TAU else "fails" if low > TAU else "not resolved"
    return verdict, numbers


def _order(a: Estimate, b: Estimate) -> int:
    """-1 where the series falls from a to b, 1 where it rises, 0 where the interval of the difference has 0."""
    low, high = (b - a).interval(0.95)
    return int(low > 0) - int(high < 0)
