"""Plain areas, errors and spread by region, per step, moments, reconstruction: worked numbers and oracles."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from stats_cases import NUM_SAMPLES, arrays

from taba_core.errors import StoreError, UsageError
from taba_core.rng import normal
from taba_core.stats import (
    ChannelPCA,
    EntryKL,
    GlobalKL,
    Moments,
    ReconstructionError,
    RegionError,
    StepError,
    area_average,
    estimates,
    plain_cells,
    plain_mask,
    project_channels,
    reduce_blocks,
)
from taba_core.stats.moments import gaussian_kl

DATA = arrays()


def reduced(statistic, data):
    n = len(next(iter(data.values())))
    return reduce_blocks([{"sample": np.arange(n), **data}], n, {"s": statistic})["s"]


def summary(statistic, data):
    return reduced(statistic, data).summary()


# ---------------------------------------------------------------- masks


def test_the_plain_mask_by_hand():
    # one channel      steps down   steps right   half sum (last row and column lack a neighbour: 0)
    #  0    0   .04     0  0  .04    0   .04 0     0    .02  .02
    #  0    0   .08     1  0   0     0   .08 0     .5   .04  0
    #  1    0   .08     0  0   0     1   .08 0     .5   .04  0
    image = np.array([[0, 0, 0.04], [0, 0, 0.08], [1, 0, 0.08]]).reshape(1, 1, 3, 3)
    assert_array_equal(plain_mask(image)[0], [[1, 1, 1], [0, 0, 1], [0, 0, 1]])


def test_one_busy_channel_makes_a_pixel_not_plain():
    image = np.zeros((1, 2, 2, 2))
    image[0, 1, 0, 0] = 1
    assert_array_equal(plain_mask(image)[0], [[0, 1], [1, 1]])


def test_the_mask_follows_the_content_not_the_range_or_sign():
    image = DATA["image"]
    mask = plain_mask(image, 0.4)
    assert 0.02 < mask.mean() < 0.98
    assert_array_equal(plain_mask(-image, 0.4), mask)
    assert_array_equal(plain_mask((image.astype(np.float64) + 1) * 127.5, 0.4, value_range=(0, 255)), mask)
    assert plain_mask(np.full((1, 3, 4, 4), 0.7)).all()


def test_masks_on_the_grid_of_a_latent():
    image = np.arange(16.0).reshape(1, 1, 4, 4)
    assert_allclose(area_average(image, 2)[0, 0], [[2.5, 4.5], [10.5, 12.5]])  # (0 + 1 + 4 + 5)/4 = 2.5
    mask = np.ones((1, 4, 4), bool)
    mask[0, 3, 0] = False
    assert_array_equal(plain_cells(mask, 2)[0], [[1, 1], [0, 1]])
    with pytest.raises(UsageError, match="cell=3 does not divide 4x4 pixels"):
        area_average(image, 3)


# ---------------------------------------------------------------- regions


def test_region_errors_by_hand():
    # one image of 2 pixels and 2 channels, the first pixel plain; noise 0; latent plain (1, 3), other (-2, 4)
    # error: plain (1 + 3)/2 = 2, other (2 + 4)/2 = 3, all 10/4; std: plain sqrt(2), other sqrt(18)
    # rms: plain sqrt((1 + 9)/2), other sqrt((4 + 16)/2)
    latent = np.array([[[1, -2]], [[3, 4]]], np.float32)[None]
    got = summary(
        RegionError(),
        {"noise": np.zeros_like(latent), "latent": latent, "region": np.array([[[1, 0]]], np.uint8)},
    )
    assert_allclose(got["error"], [2, 3, 2.5])
    assert_allclose(got["rms_error"], np.sqrt([5, 10, 7.5]))
    assert_allclose(got["std"], [np.sqrt(2), np.sqrt(18), np.std([1, 3, -2, 4], ddof=1)])
    assert_allclose(got["share"], [0.5, 0.5, 1])
    assert_allclose(got["std_reference"], 0)


def test_region_values_are_those_of_the_masked_entries():
    got = summary(RegionError(), DATA)
    mask = np.broadcast_to(DATA["region"][:, None] == 1, DATA["noise"].shape)
    u, v = DATA["noise"].astype(np.float64), DATA["latent"].astype(np.float64)
    for region, chosen in enumerate((mask, ~mask, np.ones_like(mask))):
        assert_allclose(got["error"][region], np.abs(u - v)[chosen].mean(), rtol=1e-12)
        assert_allclose(got["std"][region], v[chosen].std(ddof=1), rtol=1e-10)
        assert_allclose(got["std_reference"][region], u[chosen].std(ddof=1), rtol=1e-10)


def test_spread_and_error_obey_the_triangle_inequality():
    # std(latent) >= std(noise) - rms(latent - noise), in every region
    got = summary(RegionError(), DATA)
    assert np.all(got["std"] >= got["std_reference"] - got["rms_error"])


def test_an_empty_region_is_nan_not_zero():
    got = summary(RegionError(), {**DATA, "region": np.zeros_like(DATA["region"])})
    assert np.isnan(got["error"][0]) and np.isnan(got["std"][0])
    assert_allclose(got["error"][1], got["error"][2])


def test_unwritten_regions_are_refused():
    with pytest.raises(StoreError, match="region holds values other than 0 and 1"):
        summary(RegionError(), {**DATA, "region": np.full_like(DATA["region"], 255)})


def test_the_interval_of_a_region_difference_contains_it():
    e = estimates(reduced(RegionError(), DATA))["error"]
    low, high = (e[0] - e[1]).interval()
    assert low < float(e[0] - e[1]) < high


# ---------------------------------------------------------------- per step


def masked(x, region, which):
    chosen = np.broadcast_to((region == which)[:, None] if which is not None else True, x.shape)
    return x[chosen].astype(np.float64)


def test_step_errors_are_the_ratios_of_their_definition():
    got = summary(StepError(), DATA)
    for t in range(3):
        u, v = DATA["eps_t"][:, t].astype(np.float64), DATA["eps_hat"][:, t].astype(np.float64)
        for region, which in enumerate((1, 0, None)):
            error = masked(np.abs(u - v), DATA["region"], which).mean() / np.abs(u).mean()
            spread = masked(v, DATA["region"], which).std(ddof=1) / masked(u, DATA["region"], which).std(
                ddof=1
            )
            assert_allclose(got["error"][region, t], error, rtol=1e-12)
            assert_allclose(got["std_ratio"][region, t], spread, rtol=1e-9)
    assert_allclose(got["interval_error"][:, 2], got["error"].sum(axis=1))
    assert_allclose(got["interval_error"][:, 0], got["error"][:, 0])  # 10 % of 3 steps: at least one
    assert_allclose(got["first_share"], got["error"][:, 0] / got["error"].sum(axis=1))


def test_the_per_image_ratio_leaves_out_images_without_the_region():
    data = {name: x[:3].copy() for name, x in DATA.items()}
    data["region"][0] = 0
    got = summary(StepError(), data)["error_per_image"]
    ratios = []
    for i in (1, 2):
        u, v = data["eps_t"][i, 1].astype(np.float64), data["eps_hat"][i, 1].astype(np.float64)
        plain = np.broadcast_to(data["region"][i] == 1, u.shape)
        ratios.append(np.abs(u - v)[plain].mean() / np.abs(u).mean())
    assert_allclose(got[0, 1], np.mean(ratios), rtol=1e-12)


@pytest.mark.parametrize(
    ("first", "num_steps", "expected"), [(0.1, 50, 5), (0.1, 4, 1), (0.25, 10, 2), (0.1, 100, 10)]
)
def test_the_first_interval_is_whole_steps(first, num_steps, expected):
    assert StepError(first=first).num_first_steps(num_steps) == expected


def test_more_steps_than_are_handled_at_once_change_nothing():
    eps = normal(range(2), (19, 1, 4, 4), seed=0, stream="eps")
    data = {"eps_t": eps, "eps_hat": 0.5 * eps, "region": np.ones((2, 4, 4), np.uint8)}
    got = summary(StepError(), data)
    assert_allclose(got["error"][0], 0.5, rtol=1e-6)  # |eps - eps/2| / |eps|
    assert_allclose(got["std_ratio"][0], 0.5, rtol=1e-6)


def test_a_share_that_is_none_is_refused():
    with pytest.raises(UsageError, match=r"first=10 is no share of the steps"):
        StepError(first=10)


# ---------------------------------------------------------------- moments and divergences


def test_moments_by_hand():
    # 0 0 0 4: mean 1; deviations -1 -1 -1 3; m2 = 3, m3 = 24/4 = 6, m4 = 84/4 = 21; std (n-1) = 2
    # skewness 6/3^1.5 = 1.1547005; excess kurtosis 21/9 - 3 = -2/3
    got = summary(Moments("x"), {"x": np.array([[0.0, 0], [0, 4]])})
    assert_allclose([got[k] for k in ("mean", "std", "skewness")], [1, 2, 1.1547005], rtol=1e-7)
    assert_allclose(got["excess_kurtosis"], -2 / 3)


def test_kl_of_two_gaussians_by_hand():
    # KL(N(0,1) || N(1,4)) = ln 2 + (1 + 1)/8 - 1/2 = .4431472
    assert_allclose(
        gaussian_kl(np.array(0.0), np.array(1.0), np.array(1.0), np.array(2.0)), 0.4431472, atol=1e-7
    )


def test_global_kl_fits_all_entries():
    got = summary(GlobalKL(), DATA)
    noise, latent = DATA["noise"].astype(np.float64), DATA["latent"].astype(np.float64)
    expected = gaussian_kl(noise.mean(), noise.std(ddof=1), latent.mean(), latent.std(ddof=1))
    assert_allclose(got["kl"], expected, rtol=1e-9)


@pytest.mark.parametrize("p", [None, "noise"])
def test_entry_kl_of_white_noise_is_its_floor(p):
    # standard deviation of an entry's KL is about its mean 2/n (1/n), so of the mean of 3072 about 2 %
    data = {name: normal(range(64), (3, 32, 32), seed=0, stream=name) for name in ("noise", "latent")}
    got = summary(EntryKL(p, "latent"), data)
    assert abs(got["kl_excess"]) < 0.08 * got["kl"]


def test_entry_kl_reads_the_known_divergence():
    # N(0,1) against N(0, 1/4): ln(1/2) + 1/(2/4) - 1/2 = .8068528, floor removed to O(1/n) relative
    data = {"latent": 0.5 * normal(range(512), (4, 8, 8), seed=0, stream="latent")}
    assert_allclose(summary(EntryKL(None, "latent"), data)["kl"], 0.8068528, rtol=0.02)


def test_an_entry_that_never_varies_gives_a_finite_kl():
    data = {"noise": DATA["noise"], "latent": np.zeros_like(DATA["noise"])}
    assert np.isfinite(summary(EntryKL(), data)["kl"])


# ---------------------------------------------------------------- reconstruction


def test_reconstruction_errors_by_hand():
    # image 1: errors .1 .1 -> mse .01, PSNR 10 log10(4/.01) = 26.0206; image 2: .2 0 -> mse .02, 23.0103
    data = {"image": np.zeros((2, 2)), "reconstruction": np.array([[0.1, 0.1], [0.2, 0]])}
    got = summary(ReconstructionError(), data)
    assert_allclose([got["mae"], got["mse"]], [0.1, 0.015])
    assert_allclose(got["psnr"], (26.0206 + 23.0103) / 2, atol=1e-4)
    assert_allclose(got["psnr_std"], (26.0206 - 23.0103) / np.sqrt(2), atol=1e-4)
    assert_allclose(got["psnr_pooled"], 24.2597, atol=1e-4)  # 10 log10(4/.015)


def test_psnr_of_identical_images_is_finite():
    # float32 resolution of the range: 20 log10(2^24) = 144.494 dB
    data = {"image": np.ones((2, 3)), "reconstruction": np.ones((2, 3))}
    assert_allclose(summary(ReconstructionError(), data)["psnr"], 144.494, atol=1e-3)


def test_psnr_does_not_depend_on_the_coding_of_the_range():
    image = np.linspace(-1, 1, 12).reshape(2, 6)
    signed = {"image": image, "reconstruction": image * 0.9}
    coded = {name: (x + 1) * 127.5 for name, x in signed.items()}
    a, b = summary(ReconstructionError(), signed), summary(ReconstructionError(value_range=255), coded)
    assert_allclose(a["psnr"], b["psnr"])


# ---------------------------------------------------------------- PCA


def test_channel_pca_finds_the_axis():
    # channel 1 = 2 * channel 0: all variance along (1, 2)/sqrt(5)
    x = normal(range(20), (1, 4, 4), seed=0, stream="x").astype(np.float64)
    got = summary(ChannelPCA("x"), {"x": np.concatenate([x, 2 * x], axis=1)})
    assert_allclose(got["components"][0], np.array([1, 2]) / np.sqrt(5), atol=1e-12)
    assert_allclose(got["share"], [1, 0], atol=1e-12)
    assert_allclose(got["variance"][0], 5 * x.var(ddof=1), rtol=1e-10)


def test_channel_pca_is_the_svd_of_all_pixels():
    got = summary(ChannelPCA("image"), DATA)
    pixels = np.moveaxis(DATA["image"], 1, -1).reshape(-1, 2).astype(np.float64)
    singular = np.linalg.svd(pixels - pixels.mean(axis=0), compute_uv=False)
    assert_allclose(got["variance"], singular**2 / (len(pixels) - 1), rtol=1e-10)
    shown = project_channels(DATA["image"], got["mean"], got["components"])
    assert shown.shape == (NUM_SAMPLES, 2, 8, 8) and shown.min() == 0 and shown.max() == 1
