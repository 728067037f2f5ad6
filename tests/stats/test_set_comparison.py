"""Measures of two sets at once: the values of their definitions, intervals that hold the chance of both sets."""

from __future__ import annotations

import numpy as np
import pytest

from taba_core.errors import UsageError
from taba_core.stats.frechet import frechet_distance, frechet_of_rows
from taba_core.stats.manifold import density_coverage, precision_recall
from taba_core.stats.set_comparison import MEASURES, compare_sets


def sets(n, d=6, seed=0):
    draw = np.random.default_rng(seed).normal(size=(2, n, d))
    return draw[0], 0.8 * draw[1] + 0.1


def by_definition(real, generated):
    neighbours = precision_recall(real, generated) | density_coverage(real, generated)
    ends = [part for x in (real, generated) for part in (x.mean(0), np.cov(x.T))]
    return {"frechet": frechet_distance(*ends)} | {name: float(of.value) for name, of in neighbours.items()}


@pytest.mark.parametrize("n", [12, 64, 103])
def test_values_and_those_without_each_group_are_those_of_the_definitions(n):
    real, generated = sets(n)
    found, expected = compare_sets(real, generated), by_definition(real, generated)
    assert tuple(found) == MEASURES
    for name, estimate in found.items():
        assert float(estimate.value) == pytest.approx(expected[name], rel=1e-9), name
        assert sum(estimate.group_sizes) == n and len(estimate.group_sizes) == min(20, n // 4)
    # Replicate g is the whole measure of both sets without the ids of group g.
    edges = np.cumsum([0, *found["recall"].group_sizes])
    for g in (0, len(edges) - 2):
        kept = np.r_[0 : edges[g], edges[g + 1] : n]
        if len(kept) > 5:
            without = by_definition(real[kept], generated[kept])
            for name, estimate in found.items():
                assert estimate.replicates[g] == pytest.approx(without[name], rel=1e-9), (name, g)


@pytest.mark.parametrize(("n", "d"), [(12, 12), (12, 13), (15, 60)])
def test_of_fewer_rows_than_features_the_distance_is_that_of_the_singular_covariances(n, d):
    p, q = sets(n, d)
    ends = [part for x in (p, q) for part in (x.mean(0), np.cov(x.T))]
    assert frechet_of_rows(p, q) == pytest.approx(frechet_distance(*ends), rel=1e-5)
    # Rows along one axis each: variances 2 and 8 of the same axis, (sqrt 8 - sqrt 2)^2 = 2; the mean's shift is 0.
    line = np.zeros((2, 5))
    line[:, 0] = (-1, 1)
    assert frechet_of_rows(line, 2 * line) == pytest.approx(2)
    # Of two axes at a right angle nothing is common: 2 + 8.
    assert frechet_of_rows(line, 2 * np.roll(line, 1, axis=1)) == pytest.approx(10)


def test_equal_sets_by_hand():
    # A set against itself: no Fréchet distance, every point in its own ball, so precision, recall and coverage are 1.
    real, _ = sets(40)
    found = compare_sets(real, real)
    assert float(found["frechet"]) == pytest.approx(0, abs=1e-9)
    assert [float(found[name]) for name in ("precision", "recall", "coverage")] == [1, 1, 1]
    # Sets far apart: no sample of one lies in a ball of the other.
    far = compare_sets(real, real + 100)
    assert [float(far[name]) for name in ("precision", "recall", "density", "coverage")] == [0, 0, 0, 0]
    # FD is the squared shift, 6 x 100^2.
    assert float(far["frechet"]) == pytest.approx(6e4, rel=1e-6)


def test_intervals_are_not_too_narrow_and_differences_are_paired():
    """Over 60 repetitions the standard errors are at least the true ones (see the docstring), and below three times."""
    values, errors = {}, {}
    for seed in range(60):
        draw = np.random.default_rng(seed).normal(size=(3, 80, 8))
        a, b = compare_sets(draw[0], 0.8 * draw[1]), compare_sets(draw[0], draw[2])
        for name in MEASURES:
            gap = a[name] - b[name]
            values.setdefault(name, []).append(float(gap.value))
            errors.setdefault(name, []).append(float(gap.standard_error))
    for name in MEASURES:
        factor = np.sqrt(np.mean(np.square(errors[name]))) / np.std(values[name], ddof=1)
        assert 0.9 < factor < 3, (name, factor)


def test_what_cannot_be_compared_is_refused():
    real, generated = sets(12)
    for a, b, said in (
        (real[:11], generated[:11], r"at least 12"),
        (real, generated[:11], r"\(12, 6\) and \(11, 6\)"),
        (real, generated[:, :5], r"of the same features"),
        (real, np.where(np.arange(6) == 0, np.nan, generated), "not finite"),
    ):
        with pytest.raises(UsageError, match=said):
            compare_sets(a, b)
