"""Evaluations, residuals, fallbacks and the self-interpolation curve: worked numbers."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from taba_core.stats import InterpolationCurve, InversionCost, reduce_blocks


def summary(statistic, **data):
    n = len(next(iter(data.values())))
    return reduce_blocks([{"sample": np.arange(n), **data}], n, {"s": statistic})["s"].summary()


def test_costs_by_hand():
    # two images, two steps; -1 is no residual: rms over 3, 4 and 5 is sqrt((9 + 16 + 25)/3) = 4.0825
    got = summary(
        InversionCost(),
        evaluations=np.array([10.0, 20]),
        residual=np.array([[-1.0, 3], [4, 5]]),
        fallback=np.array([[0, 0], [1, 2]], dtype=np.uint8),
    )
    assert got["evaluations"] == 15
    assert got["residual"] == pytest.approx(np.sqrt(50 / 3))
    assert_allclose(got["residual_by_step"], [4, np.sqrt(17)])  # step 1: the 4 alone; step 2: (9 + 25)/2
    assert got["fallback_steps"] == 0.5 and got["fallback_images"] == 0.5


def test_without_any_residual_there_is_no_number():
    got = summary(
        InversionCost(),
        evaluations=np.ones(3),
        residual=np.full((3, 2), -1.0),
        fallback=np.zeros((3, 2), dtype=np.uint8),
    )
    assert (
        np.isnan(got["residual"]) and np.isnan(got["residual_by_step"]).all() and got["fallback_steps"] == 0
    )


def test_a_curve_that_comes_back_down_bulges():
    # mean over two images: 0, .3, .1; the highest point .3 is .2 above the higher end
    got = summary(InterpolationCurve(), distance=np.array([[0, 0.2, 0.1], [0, 0.4, 0.1]]))
    assert_allclose(got["distance"], [0, 0.3, 0.1])
    assert got["largest"] == pytest.approx(0.3) and got["bulge"] == pytest.approx(0.2)
    rising = summary(InterpolationCurve(), distance=np.array([[0, 0.2, 0.4]]))
    assert rising["bulge"] == 0
