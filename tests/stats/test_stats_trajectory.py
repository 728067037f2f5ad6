"""Path distances: worked numbers, the direct definition, other grids from the same state."""

import dataclasses

import numpy as np
from numpy.testing import assert_allclose
from stats_cases import arrays

from taba_core.stats import PathDistance, estimates, path_distance_direct, reduce_blocks

DATA = arrays()


def reduced(statistic, data):
    n = len(next(iter(data.values())))
    return reduce_blocks([{"sample": np.arange(n), **data}], n, {"s": statistic})["s"]


def plane(x, y):
    return np.array([[[[x, y]]]], dtype=np.float32)  # one sample, one channel, 1 x 2


# noise (0, 0), latent (4, 0), image (4, 3); path: level 1 (3, 2), level 2 (1, 0), level 3 = the noise
BY_HAND = {
    "noise": plane(0, 0),
    "latent": plane(4, 0),
    "image": plane(4, 3),
    "x_t": np.stack([plane(3, 2)[:, :], plane(1, 0), plane(0, 0)], axis=1),
}


def test_path_distances_by_hand():
    got = reduced(PathDistance(weights=(0.0, 0.25, 0.5, 0.75, 1.0)), BY_HAND).summary()
    # to the points (0,0), (1,0), (2,0), (3,0), (4,0)
    assert_allclose(got["distance"][0], [5, np.sqrt(18), np.sqrt(13), np.sqrt(10), 3])  # image, level 0
    assert_allclose(got["distance"][2], [1, 0, 1, 2, 3])  # (1, 0)
    assert_allclose(got["distance"][3], [0, 1, 2, 3, 4])  # x_T itself
    assert_allclose(got["nearest"], [1, 0.75, 0.25, 0])
    assert_allclose(got["to_noise"], [5, np.sqrt(13), 1, 0])
    assert_allclose(got["to_latent"], [3, np.sqrt(5), 3, 4])
    assert_allclose(got["share_nearer_latent"], [1, 1, 0, 0])
    assert_allclose(got["crossing"], 2 / 3)  # of 3 transitions down from x_T, the second reaches (3, 2)


def test_the_path_that_never_comes_nearer_has_no_crossing():
    data = {**BY_HAND, "image": plane(-1, 0), "x_t": np.stack([plane(-1, 0), plane(0, 0)], axis=1)}
    assert np.isnan(reduced(PathDistance(), data).summary()["crossing"])


def test_three_inner_products_are_the_direct_definition():
    states = np.concatenate([DATA["image"][:, None], DATA["x_t"]], axis=1)
    statistic = PathDistance()
    direct = path_distance_direct(DATA["noise"], DATA["latent"], states, np.asarray(statistic.weights))
    assert_allclose(reduced(statistic, DATA).summary()["distance"], direct, rtol=1e-6, atol=1e-6)


def test_another_grid_needs_no_other_pass():
    first = reduced(PathDistance(), DATA)
    finer = PathDistance(weights=(0.0, 0.1, 1.3))
    again = dataclasses.replace(first, statistic=finer).summary()["distance"]
    assert_allclose(again, reduced(finer, DATA).summary()["distance"], rtol=0)


def test_the_path_ends_at_the_noise():
    got = reduced(PathDistance(), DATA).summary()
    assert got["to_noise"][-1] == 0 and got["nearest"][-1] == 0


def test_path_estimates_have_a_replicate_of_every_value():
    got = estimates(reduced(PathDistance(), DATA), num_replicates=20)
    assert got["distance"].replicates.shape == (20, 4, 25)
    assert got["crossing"].replicates.shape == (20,)
