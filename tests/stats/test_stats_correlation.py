"""Correlations: worked numbers, an independent oracle, the floor of white noise, constant positions."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from taba_core.errors import UsageError
from taba_core.rng import normal
from taba_core.stats import (
    LagCorrelation,
    PatchCorrelation,
    correlation_floor,
    from_arrays,
    kl_floor,
    reduce,
    reduce_blocks,
)

# studies' table of simulated floors: n, then mean and pooled spread for p = 192 and p = 256
SIMULATED = [
    (16, 0.772, 0.032, 0.791, 0.029),
    (32, 0.585, 0.033, 0.604, 0.031),
    (64, 0.426, 0.028, 0.443, 0.027),
    (100, 0.345, 0.023, 0.360, 0.022),
    (128, 0.307, 0.021, 0.320, 0.021),
    (256, 0.219, 0.016, 0.227, 0.015),
    (512, 0.155, 0.011, 0.162, 0.011),
    (1000, 0.112, 0.008, 0.116, 0.008),
    (1024, 0.110, 0.008, 0.115, 0.008),
    (2048, 0.078, 0.0054, 0.081, 0.0057),
    (4096, 0.055, 0.0041, 0.058, 0.0035),
    (5120, 0.049, 0.0034, 0.051, 0.0037),
    (8192, 0.0389, 0.0028, 0.0407, 0.0026),
    (10000, 0.0350, 0.0027, 0.0367, 0.0026),
    (10240, 0.0350, 0.0025, 0.0364, 0.0024),
]


def summary(statistic, x):
    n = len(x)
    return reduce_blocks([{"sample": np.arange(n), "x": x}], n, {"s": statistic})["s"].summary()


def white(n, shape, seed=0):
    return normal(range(n), shape, seed=seed, stream="white")


def test_three_correlated_pixels_by_hand():
    # positions a = (1, 2, 3), b = (2, 4, 6), c = (1, 0, 1), d = (0, 0, 3) over three samples; deviations
    # a: -1 0 1; b: -2 0 2; c: 1/3 -2/3 1/3; d: -1 -1 2.
    # r_ab = 1, r_ac = 0, r_bc = 0, r_ad = 3/sqrt(2 * 6) = .8660254 = r_bd, r_cd = 1/sqrt(2/3 * 6) = .5
    # top 3 |r|: 1, .8660254, .8660254; mean .9106836; std (n-1) .0773503
    # mean r^2 = (1 + .75 + .75 + .25)/6 = .4583333; minus 1/(n-1) = .5
    x = np.array([[1, 2, 1, 0], [2, 4, 0, 0], [3, 6, 1, 3]], dtype=np.float32).reshape(3, 1, 2, 2)
    got = summary(PatchCorrelation("x", patch_size=2, top_k=3), x)
    assert_allclose(got["values"], [[1, 0.8660254, 0.8660254]], atol=1e-7)
    assert_allclose(got["mean_top"], 0.9106836, atol=1e-7)
    assert_allclose(got["spread"], 0.0773503, atol=1e-7)
    assert_allclose(got["excess_r2"], 0.4583333 - 0.5, atol=1e-7)


def test_patches_are_row_major_and_span_all_channels():
    # 600 samples: some rows, one matrix product of 512 samples, and a merge; products of float32 keep 7 digits
    x = white(600, (2, 8, 12))
    got = summary(PatchCorrelation("x", patch_size=4, top_k=7), x)["values"]
    for patch, (row, column) in enumerate([(0, 0), (0, 4), (0, 8), (4, 0), (4, 4), (4, 8)]):
        cut = x[:, :, row : row + 4, column : column + 4].reshape(600, -1).astype(np.float64)
        r = np.abs(np.corrcoef(cut.T)[np.triu_indices(32, k=1)])
        assert_allclose(got[patch], np.sort(r)[::-1][:7], atol=2e-7)


def test_a_constant_position_correlates_with_nothing():
    x = white(40, (1, 2, 2))
    x[:, 0, 0, 0] = 0.3  # a saturated pixel; not representable exactly
    got = summary(PatchCorrelation("x", patch_size=2, top_k=6), x)
    assert_allclose(got["values"][0, 3:], 0)  # its three pairs
    r = np.corrcoef(x.reshape(40, 4)[:, 1:].T.astype(np.float64))[np.triu_indices(3, k=1)]
    assert_allclose(got["values"][0, :3], np.sort(np.abs(r))[::-1], atol=2e-7)
    assert_allclose(got["excess_r2"], np.mean(r**2) - 1 / 39, atol=1e-7)


def test_a_constant_object_and_a_single_sample_give_no_nonsense():
    constant = summary(PatchCorrelation("x", patch_size=2, top_k=1), np.full((300, 1, 2, 2), 0.1, np.float32))
    assert constant["mean_top"] == 0 and np.isnan(constant["excess_r2"])
    single = summary(PatchCorrelation("x", patch_size=2, top_k=1), white(1, (1, 2, 2)))
    assert np.isnan(single["mean_top"]) and single["values"].shape == (1, 1)


def test_a_replicate_is_the_value_of_the_other_samples():
    x = normal(range(600), (2, 4, 8), seed=0, stream="replicates").astype(np.float64)
    x[64:96] *= 1e8  # a group whose samples ran away: nothing of it may be left where it is left out
    x[:, 0, 0, 0] = 0.5  # constant over the samples
    x[:, 1, 2, 3] = np.where(np.arange(600) < 32, x[:, 1, 2, 3], -1.0)  # constant but for the first group
    statistic = PatchCorrelation("x", patch_size=4, top_k=5)
    groups = reduce(from_arrays({"x": x}), 600, {"r": statistic})["r"].groups
    assert len(groups) == 19
    for index, found in enumerate(statistic.summaries_without(groups)):
        others = np.delete(x, slice(32 * index, 32 * index + 32), axis=0)
        for patch in range(2):
            cut = others[..., 4 * patch : 4 * patch + 4].reshape(len(others), -1)
            varying = cut[:, cut.std(axis=0) > 0]
            assert varying.shape[1] == 32 - ((patch == 0) + (patch == 0 and index == 0))
            pairs = np.triu_indices(varying.shape[1], k=1)
            expected = np.sort(np.abs(np.corrcoef(varying.T)[pairs]))[::-1][:5]
            assert_allclose(found["values"][patch], expected, rtol=0, atol=2e-7)


def test_replicates_of_values_beyond_float32_are_nan_and_no_fault():
    x = normal(range(64), (1, 4, 4), seed=0, stream="replicates")
    x[40] = 1e25  # its square is no float32 number
    groups = reduce(from_arrays({"x": x}), 64, {"r": PatchCorrelation("x", 4, 3)})["r"].groups
    with np.errstate(all="ignore"):
        replicates = PatchCorrelation("x", 4, 3).summaries_without(groups)
    finite = [bool(np.isfinite(one["mean_top"])) for one in replicates]
    assert finite == [index == 40 // 16 for index in range(4)]


def test_correlation_ignores_scale_and_offset_of_each_position():
    x = white(50, (1, 4, 4)).astype(np.float64)
    scaled = x * np.linspace(1, 5, 16).reshape(1, 1, 4, 4) + 100
    statistic = PatchCorrelation("x", patch_size=4, top_k=5)
    assert_allclose(summary(statistic, scaled)["values"], summary(statistic, x)["values"], atol=5e-7)


def test_mean_squared_correlation_of_white_noise_is_one_over_n_minus_one():
    # 18,336 pairs a patch: the standard deviation of the excess at 64 is sqrt(2)/(64 sqrt(18336)) = 1.6e-4
    for n in (32, 64):
        got = np.mean(
            [summary(PatchCorrelation("x"), white(n, (3, 16, 16), s))["excess_r2"] for s in range(4)]
        )
        assert abs(got) < 4 * np.sqrt(2) / n / np.sqrt(18336 * 16)


@pytest.mark.parametrize(("n", "mean3", "spread3", "mean4", "spread4"), SIMULATED)
def test_the_analytic_floor_is_the_simulated_one(n, mean3, spread3, mean4, spread4):
    for num_features, mean, spread in ((192, mean3, spread3), (256, mean4, spread4)):
        floor = correlation_floor(n, num_features)
        assert abs(floor.mean - mean) < 0.002
        assert abs(floor.spread - spread) < 0.004


@pytest.mark.parametrize("n", [64, 128])
def test_white_noise_reads_the_floor(n):
    got = summary(PatchCorrelation("x"), white(n, (3, 64, 64)))
    floor = correlation_floor(n, PatchCorrelation("x").num_features(3))
    assert abs(got["mean_top"] - floor.mean) < 0.004  # 64 patches of std .0083 (n = 64): standard error .001
    assert abs(got["spread"] - floor.spread) < 0.003


def test_the_floor_falls_like_one_over_root_n():
    for p, constant in ((192, 3.53), (256, 3.68)):  # the rule of thumb
        assert_allclose(correlation_floor(4096, p).mean, constant / np.sqrt(4096), rtol=0.01)


def test_the_largest_of_one_pair_at_n_3_is_known():
    # n = 3: r = cos of a uniform angle, so E|r| = 2/pi; one pair, top 1
    assert_allclose(correlation_floor(3, 2, top_k=1).mean, 2 / np.pi, atol=1e-4)


def test_kl_floors_by_hand():
    # (2n - 1)/(n (n - 3)) at n = 4: 7/4; near 2/n and 1/n for large n
    assert kl_floor(4) == 1.75
    assert_allclose([kl_floor(4096), kl_floor(4096, known_normal=True)], [2 / 4096, 1 / 4096], rtol=2e-3)


def test_floors_that_do_not_exist_are_refused():
    with pytest.raises(UsageError, match="needs n >= 3 and 1 <= top_k <= 3 pairs"):
        correlation_floor(2, 3)
    with pytest.raises(UsageError, match="infinite below n = 4"):
        kl_floor(3)


def test_patches_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="patch_size=3 does not divide x of 8x8"):
        summary(PatchCorrelation("x", patch_size=3), white(4, (1, 8, 8)))
    with pytest.raises(UsageError, match="top_k=20: a patch of 4 positions has 6 pairs; use 1 to 6"):
        summary(PatchCorrelation("x", patch_size=2), white(4, (1, 8, 8)))


# ---------------------------------------------------------------- lag correlation


def test_lag_correlation_of_stripes_by_hand():
    # columns +1 -1 +1 -1: m = 0, variance 1; lag (0,1): -1, (1,0): +1, (1,1): -1; plus 1/(16 - 1)
    x = np.tile(np.array([1, -1, 1, -1], np.float32), (3, 2, 4, 1))
    got = summary(LagCorrelation("x"), x)
    assert_allclose(got["lags"], np.array([-1, 1, -1]) + 1 / 15, atol=1e-12)
    assert_allclose(got["value"], -1 / 3 + 1 / 15, atol=1e-12)


def test_lag_correlation_of_white_noise_is_zero_even_in_small_images():
    # without the correction it would be -1/15 = -.067; standard error about 1/sqrt(4000 * 36) = .0026
    assert abs(summary(LagCorrelation("x"), white(2000, (2, 4, 4)))["value"]) < 0.008


def test_constant_channels_are_left_out_of_the_lag_correlation():
    x = white(10, (2, 6, 6))
    alone = summary(LagCorrelation("x"), x[:, :1])
    x[:, 1] = 0.7
    assert_allclose(summary(LagCorrelation("x"), x)["lags"], alone["lags"], atol=1e-12)
    assert np.isnan(summary(LagCorrelation("x"), x[:, 1:])["value"])
