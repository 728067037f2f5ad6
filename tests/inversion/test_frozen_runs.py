"""The numbers of generation, of every inversion method and of the closed forms are what they were (`frozen_runs`)."""

import numpy as np
import pytest
from frozen_runs import frozen, summaries
from registered import ROUNDING

# Float32 states amplify what another processor rounds otherwise; so do iterations that end at a tolerance.
FLOAT32 = ("gaussian32", "photos", "waves-first")
AMPLIFIED = {
    *("gnri", "exact-dpm-1", "exact-dpm-2", "hybrid-gradient", "spdinv"),
    *("edict", "rex", "bdia", "null-text", "prompt-tuning"),
}


def tolerance(name):
    """Relative to the run's mean magnitude."""
    problem, method = name.split("/")[:2]
    base = 1e-5 if problem in FLOAT32 else 1e-6
    return base * (ROUNDING.get(method, 1) if method in ROUNDING else 100 if method in AMPLIFIED else 1)


@pytest.mark.slow
def test_no_number_has_moved():
    before, found = frozen(), summaries()
    assert before.keys() == found.keys()
    for name, (_, expected) in before.items():
        mean, values = expected[0], expected[1:]
        if name.endswith(("/rounding", "/evaluations")):
            # What storing in float32 dropped is rounding itself, and iterations may end one sooner elsewhere.
            continue
        np.testing.assert_allclose(
            found[name][1][1:],
            values,
            rtol=tolerance(name),
            atol=tolerance(name) * max(mean, 1e-3),
            err_msg=name,
        )
