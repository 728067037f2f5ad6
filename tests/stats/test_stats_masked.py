"""Neighbour correlation, spectrum and divergence by region: worked numbers, laws, oracles."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from stats_cases import arrays

from taba_core.rng import normal, uniform
from taba_core.stats import (
    PowerSpectrum,
    RegionError,
    RegionLagCorrelation,
    RegionSpectrum,
    estimates,
    reduce_blocks,
)

DATA = arrays()
IDS = range(96)


def reduced(statistic, **data):
    n = len(next(iter(data.values())))
    return reduce_blocks([{"sample": np.arange(n), **data}], n, {"s": statistic})["s"]


def summary(statistic, **data):
    return reduced(statistic, **data).summary()


def blobs(share=0.3, size=16):
    """Masks that vary from sample to sample."""
    return (uniform(IDS, (size, size), seed=1, stream="region") < share).astype(np.uint8)


def test_neighbour_correlation_by_hand():
    # x = 1  2    plain: the top row and the bottom left pixel (mask 1 1 / 1 0)
    #     3 -4
    # lag (0,1): plain pair (1,2): 2 / ((1 + 4)/2) = .8; non-plain none; all: (2 - 12) / ((5 + 25)/2) = -2/3
    # lag (1,0): plain pair (1,3): 3 / ((1 + 9)/2) = .6; all: (3 - 8) / ((10 + 20)/2) = -1/3
    # lag (1,1): pair (1,-4) is mixed: plain none; all: -4 / (17/2) = -8/17
    x = np.array([[1.0, 2], [3, -4]]).reshape(1, 1, 2, 2)
    region = np.array([[[1, 1], [1, 0]]], dtype=np.uint8)
    got = summary(RegionLagCorrelation("x"), x=x, region=region)
    assert_allclose(got["lags"], [[0.8, 0.6, np.nan], [np.nan] * 3, [-2 / 3, -1 / 3, -8 / 17]])
    assert_allclose(got["value"], [np.nan, np.nan, (-2 / 3 - 1 / 3 - 8 / 17) / 3])


def test_white_noise_has_no_neighbour_correlation_and_a_flat_spectrum_in_any_region():
    x, region = normal(IDS, (3, 16, 16), seed=0, stream="x"), blobs()
    lag = estimates(reduced(RegionLagCorrelation("x"), x=x, region=region))["value"]
    assert np.all(np.abs(lag.value) < 4 * lag.standard_error) and np.all(lag.standard_error < 0.01)
    found = estimates(reduced(RegionSpectrum("x"), x=x, region=region))
    assert_allclose(found["power"].value, 1, atol=0.15)
    assert np.all(np.abs(found["slope"].value) < 4 * found["slope"].standard_error)


def test_a_region_of_larger_variance_has_that_power_and_the_other_keeps_its_own():
    # white noise of standard deviation 2 in plain areas and 1/2 elsewhere: power 4 and 1/4 at every radius
    region = blobs()
    x = normal(IDS, (3, 16, 16), seed=0, stream="x") * np.where(region, 2.0, 0.5)[:, None]
    power = summary(RegionSpectrum("x"), x=x, region=region)["power"]
    assert_allclose(power[0], 4, rtol=0.15)
    assert_allclose(power[1], 0.25, rtol=0.15)


def test_without_a_mask_the_spectrum_is_the_plain_one():
    masked = summary(RegionSpectrum("latent"), latent=DATA["latent"], region=DATA["region"])
    whole = summary(PowerSpectrum("latent"), latent=DATA["latent"])
    for name in ("frequency", "power", "slope"):
        assert_allclose(masked[name][2], whole[name], rtol=1e-13)


def test_neighbours_that_are_equal_in_plain_areas_correlate_fully_there_alone():
    flat = normal(IDS, (3, 1, 1), seed=0, stream="flat") * np.ones((3, 16, 16))
    region = np.zeros((96, 16, 16), dtype=np.uint8)
    region[:, 4:12, 4:12] = 1
    x = np.where(region[:, None], flat, normal(IDS, (3, 16, 16), seed=0, stream="x"))
    plain, other, whole = summary(RegionLagCorrelation("x"), x=x, region=region)["value"]
    assert plain == pytest.approx(1, abs=1e-12)
    assert abs(other) < 0.02 and 0.15 < whole < 0.35  # about the plain share of pairs, 1/4 of them


def test_divergence_by_region_by_hand():
    # plain: reference -1, 1 and estimate -2, 2 (std sqrt(2), 2 sqrt(2)): ln 2 + 1/8 - 1/2 = .318147
    # non-plain: both the same: 0
    u = np.array([-1.0, 1, 3, 5]).reshape(1, 1, 2, 2)
    v = np.array([-2.0, 2, 3, 5]).reshape(1, 1, 2, 2)
    region = np.array([[[1, 1], [0, 0]]], dtype=np.uint8)
    got = summary(RegionError("u", "v"), u=u, v=v, region=region)["kl"]
    assert_allclose(got[:2], [0.318147, 0], atol=1e-6)
