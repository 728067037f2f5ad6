"""Numbers samples already have, PNG bits, masks on other grids, local variance, spectra, SSIM, SLERP."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from taba_core.errors import UsageError
from taba_core.rng import normal, uniform
from taba_core.stats import (
    DifferencePower,
    LocalVariance,
    Moments,
    PngBits,
    PowerSpectrum,
    Quantiles,
    ReconstructionError,
    StructuralSimilarity,
    TopExamples,
    ValueMean,
    ValueRange,
    estimates,
    png_bits,
    reduce_blocks,
    slerp,
    transfer_mask,
)


def reduced(statistic, **arrays):
    n = len(next(iter(arrays.values())))
    return reduce_blocks([{"sample": np.arange(n), **arrays}], n, {"s": statistic})["s"]


def summary(statistic, **arrays):
    return reduced(statistic, **arrays).summary()


# ---------------------------------------------------------------- values


def test_mean_and_spread_of_values_by_hand():
    got = summary(ValueMean("v"), v=np.array([1.0, 2.0, 6.0]))  # mean 3, squares 4 + 1 + 9 = 14 over 2
    assert_allclose([got["mean"], got["std"]], [3, np.sqrt(7)])


def test_quantiles_are_those_of_the_kept_values():
    v = uniform(range(101), (), seed=0, stream="v")
    got = summary(Quantiles("v", (0.0, 0.1, 0.5, 1.0)), v=v)["quantile"]
    assert_allclose(got, np.quantile(v, (0, 0.1, 0.5, 1)), rtol=1e-14)


def test_weighted_quantiles_are_those_of_repeated_values():
    v, weight = np.array([3.0, 1.0, 2.0, 5.0]), np.array([2.0, 0.0, 1.0, 4.0])
    state = Quantiles("v").partial({"sample": np.arange(4), "v": v})
    got = Quantiles("v").weighted(state, lambda ids: np.stack([weight, np.zeros(4)]))["quantile"]
    assert_allclose(got[0], np.quantile([3, 3, 2, 5, 5, 5, 5], (0.25, 0.5, 0.75)))
    assert np.isnan(got[1]).all()


def test_the_interval_of_a_median_covers_it():
    v = normal(range(400), (), seed=0, stream="v")
    low, high = estimates(reduced(Quantiles("v", (0.5,)), v=v))["quantile"].interval()
    assert low[0] < np.median(v) < high[0]
    assert_allclose(high[0] - low[0], 2 * 1.96 * 1.2533 / np.sqrt(400), rtol=0.35)  # 1.2533 = sqrt(pi / 2)


def test_levels_outside_0_and_1_are_refused():
    with pytest.raises(UsageError, match="quantiles lie at levels from 0 to 1"):
        Quantiles("v", (50.0,))


def test_the_range_is_that_of_all_entries():
    x = normal(range(40), (3, 4), seed=0, stream="x")
    got = summary(ValueRange("x"), x=x)
    assert (got["low"], got["high"]) == (x.min(), x.max())


# ---------------------------------------------------------------- examples


def test_top_examples_with_ties_by_the_smallest_id():
    errors = np.array([0.5, 0.9, 0.1, 0.9, 0.5])
    image = np.zeros((5, 1, 2, 2))
    data = {"image": image, "reconstruction": image + errors[:, None, None, None]}
    got = summary(TopExamples(ReconstructionError(), "mae", k=3), **data)
    assert got["id"].tolist() == [1, 3, 0]
    assert_allclose(got["score"], [0.9, 0.9, 0.5])
    lowest = summary(TopExamples(ReconstructionError(), "mae", k=7, largest=False), **data)
    assert lowest["id"].tolist() == [2, 0, 4, 1, 3, -1, -1]


def test_a_term_that_does_not_exist_is_named():
    with pytest.raises(UsageError, match="ReconstructionError has no term lpips; it has: mae, mse, psnr"):
        x = np.zeros((2, 1, 2, 2))
        summary(TopExamples(ReconstructionError(), "lpips"), image=x, reconstruction=x)


# ---------------------------------------------------------------- PNG


def test_a_png_of_one_pixel_has_552_bits():
    # signature 8, header 25, data frame 12, end 12 bytes = 456 bits; the stream of 4 bytes takes 12 bytes = 96
    assert png_bits(np.array([[10, 20, 30]], dtype=np.uint8)) == (552, 96)


def test_noise_costs_its_own_24_bits_and_the_frame():
    # studies, Table 5: uniform noise reads 32.6 bits a pixel at P = 64, 26.2 at 256, 24.5 at 1024
    noise = (256 * uniform(range(1024), (3,), seed=0, stream="png")).astype(np.uint8)
    for size, expected in ((64, 32.6), (256, 26.2), (1024, 24.5)):
        assert_allclose(png_bits(noise[:size])[0] / size, expected, atol=0.15)
        assert 24 < png_bits(noise[:size])[1] / size < 26


def test_mean_of_ratios_and_ratio_of_sums_by_hand():
    # image 0: plain everywhere, 64 equal pixels; image 1: 63 plain pixels, one too few to count
    image = np.zeros((2, 3, 8, 8), dtype=np.uint8)
    image[1] = (256 * uniform(range(3), (8, 8), seed=0, stream="png")).astype(np.uint8)
    region = np.ones((2, 8, 8), dtype=np.uint8)
    region[1, 0, 0] = 0
    got = summary(PngBits("x"), x=image, region=region)
    flat = image.transpose(0, 2, 3, 1).reshape(2, 64, 3)
    (file_0, data_0), (file_1, data_1) = png_bits(flat[0]), png_bits(flat[1])
    assert_allclose(got["bits"], [file_0 / 64, np.nan, (file_0 + file_1) / 128])
    assert_allclose(got["data_pooled"], [data_0 / 64, np.nan, (data_0 + data_1) / 128])
    assert got["images"].tolist() == [1, 0, 2]
    theirs = summary(PngBits("x", reference=True), x=image, region=region)
    plain_1 = png_bits(flat[1][1:])[0] / 63
    assert_allclose(theirs["bits"][:2], [(file_0 / 64 + plain_1) / 2, (0 + 552) / 2])


def test_states_that_are_no_pictures_are_refused():
    with pytest.raises(UsageError, match="PNG takes RGB images"):
        summary(PngBits("x"), x=np.zeros((2, 4, 8, 8)), region=np.zeros((2, 8, 8), np.uint8))


def test_masks_move_between_the_grids_of_state_and_picture():
    mask = np.zeros((1, 4, 4), dtype=bool)
    mask[0, :2, :2] = mask[0, 2, 3] = True  # one whole 2x2 cell, and one lone pixel
    assert transfer_mask(mask, 2, 2).tolist() == [[[True, False], [False, False]]]
    fine = transfer_mask(mask, 8, 8)
    assert_array_equal(fine[0, 4:6, 6:8], True)
    assert fine.sum() == 4 * mask.sum()
    assert_array_equal(transfer_mask(fine, 4, 4), mask)
    with pytest.raises(UsageError, match="a mask of 4x4 does not fit 6x6 pixels"):
        transfer_mask(mask, 6, 6)


def test_a_mask_of_the_state_serves_its_decoded_image():
    image = (256 * uniform(range(2), (3, 16, 16), seed=0, stream="decoded")).astype(np.uint8)
    region = (uniform(range(2), (8, 8), seed=0, stream="mask") < 0.5).astype(np.uint8)
    coarse = summary(PngBits("x"), x=image, region=region)
    fine = summary(PngBits("x"), x=image, region=region.repeat(2, axis=1).repeat(2, axis=2))
    assert_array_equal(coarse["bits"], fine["bits"])


# ---------------------------------------------------------------- texture


def test_local_variance_by_hand():
    # a single 3 in a 3x3 image: centre (9/9) - (3/9)^2 = 8/9 everywhere, as every window holds it
    x = np.zeros((1, 1, 3, 3))
    x[0, 0, 1, 1] = 3
    region = np.array([[[1, 1, 1], [0, 0, 0], [0, 0, 0]]], dtype=np.uint8)
    assert_allclose(summary(LocalVariance("x"), x=x, region=region)["variance"], [8 / 9] * 3)


def test_the_spectrum_of_white_noise_is_one_and_flat():
    got = summary(PowerSpectrum("x"), x=normal(range(64), (3, 16, 16), seed=0, stream="x"))
    assert_allclose(got["power"], 1, atol=0.1)
    assert abs(got["slope"]) < 0.05
    assert got["frequency"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0])
def test_the_slope_of_a_power_law_is_found(exponent):
    # white noise filtered by |k|^(-exponent / 2); the mean over a ring lies a little above its centre's value
    size = 64
    radius = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)) * size
    gain = np.where(radius > 0, np.maximum(radius, 1) ** (-exponent / 2), 0)
    x = np.fft.ifft2(np.fft.fft2(normal(range(32), (1, size, size), seed=0, stream="x")) * gain).real
    assert_allclose(summary(PowerSpectrum("x"), x=x)["slope"], -exponent, atol=0.1)


def test_a_wave_has_its_power_at_its_frequency():
    wave = np.cos(2 * np.pi * 3 * np.arange(16) / 16) * np.ones((1, 1, 16, 1))
    power = summary(PowerSpectrum("x"), x=wave)["power"]
    assert np.argmax(power) == 2 and power[2] > 1e20 * max(power[0], 1e-30)


def test_the_power_of_a_difference_is_split_at_half_the_nyquist_frequency():
    # 16 pixels: Nyquist at 8 cycles, half of it at 4. The waves of a difference: 3 cycles of amplitude 1, and 6 cycles
    # of amplitude 2. Each has two modes of |F|^2 / 256 = 64 amplitude^2, in rings of 16 modes (squared radii 8, 9, 10)
    # and of 40 (32, 34, 36, 37, 40, 41); a half has four rings: low = 2 64 / 16 / 4 = 2, high = 2 256 / 40 / 4 = 3.2.
    y = 2 * np.pi * np.arange(16) / 16
    wave = (np.cos(3 * y) + 2 * np.cos(6 * y) + 5) * np.ones((1, 1, 16, 1))
    image = normal(range(1), (1, 16, 16), seed=0, stream="x").astype(np.float64)
    got = summary(DifferencePower("x", "y"), x=image, y=image + wave)
    assert_allclose([got["low"], got["high"], got["ratio"]], [2, 3.2, 1.6], rtol=1e-10)


def test_the_power_of_differences_of_white_noise_is_one_and_of_none_is_no_ratio():
    x, y = (normal(range(64), (3, 16, 16), seed=0, stream=name) for name in "xy")
    got = summary(DifferencePower("x", "y"), x=x, y=x + y)
    assert_allclose([got["low"], got["high"], got["ratio"]], 1, atol=0.05)
    assert np.isnan(summary(DifferencePower("x", "y"), x=x, y=x)["ratio"])


# ---------------------------------------------------------------- normality, SSIM, SLERP


def test_jarque_bera_by_hand():
    # values 0 0 0 4: mean 1, deviations -1 -1 -1 3; m2 = 3, m3 = 6, m4 = 21; S = 6/3^1.5 = 1.1547, K = 21/9 - 3 = -2/3
    # JB = 4/6 (S^2 + K^2/4) = 4/6 (4/3 + 1/9) = 0.962963
    got = summary(Moments("x"), x=np.array([[0.0, 0, 0, 4]]))
    assert_allclose(got["jarque_bera"], 0.9629630, rtol=1e-6)


def test_jarque_bera_tells_normal_from_uniform_entries():
    white = summary(Moments("x"), x=normal(range(100), (100,), seed=0, stream="x"))
    flat = summary(Moments("x"), x=uniform(range(100), (100,), seed=0, stream="x"))
    assert white["jarque_bera"] < 9.21 < 100 < flat["jarque_bera"]  # 9.21: 99 % of chi-squared of 2 degrees


def test_identical_images_are_similar_and_small_ones_refused():
    x = normal(range(3), (3, 8, 8), seed=0, stream="x")
    got = summary(StructuralSimilarity("x", "y"), x=x, y=x)
    assert_allclose([got["ssim"], got["ssim_std"]], [1, 0], atol=1e-12)
    with pytest.raises(UsageError, match="images of 4x4 are smaller than the 7x7 window"):
        summary(StructuralSimilarity("x", "y"), x=x[..., :4, :4], y=x[..., :4, :4])


def test_similarity_of_sets_that_are_scaled_by_their_extremes_first():
    x = normal(range(3), (3, 8, 8), seed=0, stream="x").astype(np.float64)
    y = 0.5 * x + 2  # the same pictures in another range: equal once each set is scaled to [0, 1]
    ends = [(float(z.min()), float(z.max())) for z in (x, y)]
    assert_allclose(summary(StructuralSimilarity("x", "y", 1.0, *ends), x=x, y=y)["ssim"], 1, atol=1e-12)
    z = normal(range(3), (3, 8, 8), seed=0, stream="z").astype(np.float64)
    scaled = [(x - x.min()) / np.ptp(x), (z - z.min()) / np.ptp(z)]
    ends[1] = (float(z.min()), float(z.max()))
    got = summary(StructuralSimilarity("x", "y", 1.0, *ends), x=x, y=z)["ssim"]
    assert_allclose(got, summary(StructuralSimilarity("x", "y", 1.0), x=scaled[0], y=scaled[1])["ssim"])
    assert got < 0.5


def test_slerp_by_hand_and_its_ends():
    # halfway between (1, 0) and (0, 2): theta = 90 degrees, both weights sin 45 = .7071
    got = slerp(np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]]), 0.5)
    assert_allclose(got, [[np.sqrt(0.5), np.sqrt(2)]])
    u, v = (normal(range(5), (2, 3, 3), seed=0, stream=s) for s in "uv")
    assert_allclose(slerp(u, v, 0), u, rtol=1e-12)
    assert_allclose(slerp(u, v, 1), v, rtol=1e-12)


def test_slerp_of_unit_vectors_stays_on_the_sphere():
    u, v = (normal(range(5), (8,), seed=0, stream=s).astype(np.float64) for s in "uv")
    u, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (u, v))
    assert_allclose(np.linalg.norm(slerp(u, v, 0.3), axis=1), 1, rtol=1e-12)


def test_slerp_off_the_segment_is_refused():
    x = np.zeros((1, 2))
    with pytest.raises(UsageError, match=r"weight=1.5 is outside the segment"):
        slerp(x, x, 1.5)
    with pytest.raises(UsageError, match="both ends need the same shape"):
        slerp(x, x[:, :1], 0.5)
