"""Claims as inequalities decided on intervals, never on point values."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from taba_core.errors import UsageError
from taba_core.stats.estimate import Estimate
from taba_core.verdicts import Verdict


def positive(estimate: Estimate, *, level: float = 0.95) -> Verdict:
    """Is a scalar quantity > 0? "holds" if its interval is above 0, "fails" if below, else "not resolved".

    Write a claim a > b as `positive(a - b)`: paired where both rest on the same samples. An exact 0 fails;
    a quantity without an interval (NaN bounds) is not resolved.

    Raises:
      UsageError: the estimate is not a scalar; see `all_positive`.

    >>> positive(Estimate.exact(0.2)), positive(Estimate.exact(0.2) - Estimate.exact(0.3))
    ('holds', 'fails')
    """
    if estimate.shape:
        raise UsageError(
            f"positive() judges one number, this estimate has shape {estimate.shape}; use all_positive()."
        )
    return all_positive(estimate, level=level)


def all_positive(estimate: Estimate, *, level: float = 0.95) -> Verdict:
    """Is every one of m elements > 0?

    "holds" if every element's interval at `level` lies above 0. This needs no correction for m: to claim all
    of them is an intersection-union test, wrong only if one false element passes its own test. "fails" if any
    element lies below 0 at the simultaneous (Bonferroni) level 1 - (1 - level)/m, because with many elements
    one would fall below by chance. Else "not resolved".
    """
    lower, _ = estimate.interval(level)
    elements = max(lower.size, 1)
    if lower.size and bool(np.all(lower > 0)):
        return "holds"
    _, upper = estimate.interval(1 - (1 - level) / elements)
    if bool(np.any((upper < 0) | ((upper == 0) & (estimate.kind == "exact")))):
        return "fails"
    return "not resolved"


def every(verdicts: Iterable[Verdict]) -> Verdict:
    """Verdict on a conjunction: fails if one fails, holds if all hold, else not resolved (also for none).

    >>> every(["holds", "not resolved"]), every(["not resolved", "fails"])
    ('not resolved', 'fails')
    """
    found = set(verdicts)
    if "fails" in found:
        return "fails"
    return "holds" if found == {"holds"} else "not resolved"
