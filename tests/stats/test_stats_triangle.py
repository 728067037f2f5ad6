"""Triangles: worked angles, bins that add to 180, the search against its definition, defects of the reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal
from stats_cases import arrays

from taba_core.errors import WorkError
from taba_core.stats import (
    AngleHistogram,
    Triangle,
    estimates,
    most_probable_angles,
    most_probable_angles_direct,
    reduce_blocks,
)
from taba_core.stats.angles import bin_of, half_maximum, joint_mode

DATA = arrays()
VERTICES = ("noise", "image", "latent")


def reduced(statistic, data):
    n = len(next(iter(data.values())))
    return reduce_blocks([{"sample": np.arange(n), **data}], n, {"s": statistic})["s"]


def plane(*points):
    return np.array(points, dtype=np.float32)[:, None, None, :]  # (n, 1 channel, 1 x 2)


# noise (0, 0), latent (4, 0), image (4, 3): sides image-latent 3, image-noise 5, noise-latent 4
BY_HAND = {"noise": plane((0, 0)), "latent": plane((4, 0)), "image": plane((4, 3))}


def with_angles(angles):
    """Triangles with the given angles (image, noise, latent) in degrees, and a side noise-latent of 1."""
    a, b, _ = np.radians(np.asarray(angles, dtype=float)).T
    length = np.sin(np.radians(180) - a - b) / np.sin(a)  # noise-image, by the law of sines
    image = np.stack([length * np.cos(b), length * np.sin(b)], axis=1)
    noise, latent = np.zeros_like(image), np.tile([1.0, 0.0], (len(image), 1))
    return {"noise": plane(*noise), "latent": plane(*latent), "image": plane(*image)}


def test_a_3_4_5_triangle_by_hand():
    # angle at the latent 90, at the noise asin(3/5) = 36.8699, at the image asin(4/5) = 53.1301
    got = reduced(Triangle(), BY_HAND).summary()
    assert_allclose(got["side_mean"], [3, 5, 4])
    assert_allclose(got["angle_mean"], [53.1301, 36.8699, 90], atol=1e-4)
    assert_array_equal(got["most_probable"], [53, 37, 90])
    assert_array_equal(got["joint_mode"], [53, 37, 90])
    assert np.isnan(got["side_std"]).all()  # one sample


def test_floors_of_a_true_triangle_do_not_add_to_180():
    # floors 53, 36, 90 add to 179: the reference finds no triangle of this one sample
    assert np.isnan(reduced(Triangle(bins="reference"), BY_HAND).summary()["most_probable"]).all()
    # with (53.2, 37.1, 89.7) beside it: 53 + 37 + 90 = 180 is made of floors of different triangles
    two = with_angles([(53.1301, 36.8699, 90.001), (53.2, 37.1, 89.7)])
    assert_array_equal(reduced(Triangle(bins="reference"), two).summary()["most_probable"], [53, 37, 90])


def test_angles_below_one_degree_are_lost_in_the_bins_of_the_reference():
    angles = np.array([0.4, 0.6, 1.0, 59.5, 178.4, 179.0, 179.4, np.nan])
    assert bin_of(angles).tolist() == [0, 1, 1, 60, 178, 179, 179, -1]
    assert bin_of(angles, "reference").tolist() == [-1, -1, 1, 59, 178, 178, -1, -1]


def test_the_product_of_marginals_and_the_joint_mode_can_differ():
    # image 30 thrice and noise 50 thrice, never together: the product chooses (30, 50, 100) with 3 * 3 * 4 = 36;
    # (30, 40, 110) happens three times: 3 * 3 * 3 = 27; the joint histogram knows that
    angles = (
        [(30, 40, 110)] * 3 + [(20, 50, 110)] + [(50, 50, 80)] * 2 + [(35, 45, 100)] * 2 + [(60, 20, 100)] * 2
    )
    got = reduced(Triangle(), with_angles(angles)).summary()
    assert_array_equal(got["most_probable"], [30, 50, 100])
    assert_array_equal(got["joint_mode"], [30, 40, 110])


def test_angles_add_to_180_degrees():
    got = reduced(Triangle(), DATA).summary()
    for name in ("angle_mean", "most_probable", "joint_mode"):
        assert_allclose(got[name].sum(), 180, atol=1e-9)


def test_the_acos_of_a_mean_cosine_is_not_the_mean_angle():
    # angles at the image of 20 and 100 degrees: mean 60; mean cosine (.9397 - .1736)/2 = .3830, acos = 67.48
    got = reduced(Triangle(), with_angles([(20, 40, 120), (100, 40, 40)])).summary()
    assert_allclose(got["angle_mean"][0], 60, atol=1e-4)
    assert_allclose(got["angle_of_mean_cosine"][0], 67.48, atol=5e-3)


def test_a_perfect_inversion_has_no_angle_where_noise_and_latent_coincide():
    data = {"noise": DATA["noise"], "image": DATA["image"], "latent": DATA["noise"]}
    got = reduced(Triangle(), data).summary()
    assert_allclose(got["angle_mean"][0], 0, atol=1e-5)
    assert np.isnan(got["angle_mean"][1:]).all() and got["side_mean"][2] == 0
    assert np.isnan(got["most_probable"]).all() and np.isnan(got["joint_mode"]).all()
    assert np.isnan(got["peak_width"][1:]).all()


def test_three_constant_states_lie_on_a_line():
    # 0, 1 and 3 everywhere: the noise lies between latent and image, so the angles are 0, 180, 0
    shape = (2, 3, 4, 4)
    data = {"noise": np.ones(shape), "image": np.zeros(shape), "latent": np.full(shape, 3.0)}
    got = reduced(Triangle(), data).summary()
    assert_allclose(got["angle_mean"], [0, 180, 0], atol=1e-5)
    assert_array_equal(got["most_probable"], [0, 180, 0])


@pytest.mark.parametrize("statistic", [Triangle(), AngleHistogram()])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_state_that_is_not_finite_is_refused(statistic, value):
    data = {name: DATA[name].copy() for name in VERTICES}
    data["latent"][17, 0, 0, 0] = value
    with pytest.raises(WorkError, match=r"sample 17 of latent holds NaN or infinite values \(1 such samples"):
        reduced(statistic, data)


def test_mixed_dtypes_are_the_same_numbers():
    whole = {name: np.round(DATA[name] * 4) for name in VERTICES}
    mixed = {
        "noise": whole["noise"].astype(np.float64),
        "image": whole["image"].astype(np.float16),
        "latent": whole["latent"].astype(np.float32),
    }
    ours, same = (reduced(Triangle(), data).summary() for data in (mixed, whole))
    for name in ours:
        assert_array_equal(ours[name], same[name])


def test_a_missing_block_is_refused():
    part = {"sample": np.arange(16), **{name: DATA[name][:16] for name in VERTICES}}
    with pytest.raises(WorkError, match="AngleHistogram: 1 of 2 blocks are missing"):
        reduce_blocks([part], 30, {"s": AngleHistogram()})


def test_the_histogram_of_counts_and_the_rows_name_the_same_triangles():
    rows, counts = reduced(Triangle(), DATA).summary(), reduced(AngleHistogram(), DATA).summary()
    for name in ("most_probable", "joint_mode"):
        assert_array_equal(rows[name], counts[name])
    assert counts["joint"].sum() == len(DATA["noise"]) and counts["histogram"].dtype == np.int64
    assert_array_equal(counts["joint"].sum(axis=1), counts["histogram"][0])


@given(hnp.arrays(np.int64, (3, 181), elements=st.integers(0, 3)), st.integers(0, 178), st.integers(1, 180))
@settings(max_examples=6)
def test_the_search_is_the_definition(histograms, start, width):
    histograms[0, :start] = 0  # also where a histogram uses few bins, or none
    histograms[2, min(start + width, 181) :] = 0
    assert_array_equal(most_probable_angles(histograms), most_probable_angles_direct(histograms))


def test_equal_products_go_to_the_smallest_angle_at_the_latent():
    histograms = np.zeros((3, 181))
    histograms[0, [30, 60]] = histograms[1, 60] = histograms[2, [60, 90]] = 2
    for search in (most_probable_angles, most_probable_angles_direct):
        assert search(histograms).tolist() == [60, 60, 60]


def test_the_joint_mode_follows_the_weights():
    first, second = np.array([10, 10, 20, -1]), np.array([5, 5, 7, 7])
    weights = np.array([[1.0, 1, 1, 9], [1, 0, 3, 9], [0, 0, 0, 9], [1, 1, 2, 0]])
    expected = [[10, 5], [20, 7], [np.nan, np.nan], [10, 5]]  # the last is a tie: the smallest
    assert_array_equal(joint_mode(first, second, weights), expected)


def test_the_width_at_half_maximum_of_a_bell_of_known_spread():
    # a bell of std 6 under the kernel of std 3: std sqrt(45), width 2 sqrt(2 ln 2) sqrt(45) = 15.797
    k = np.arange(181)
    bell = np.exp(-((k - 70.0) ** 2) / 72)
    width, peaks = half_maximum(np.stack([bell, bell + np.exp(-((k - 140.0) ** 2) / 72), 0 * bell]))
    assert_allclose(width[:2], 15.797, atol=0.02)  # crossings are interpolated
    assert peaks[:2].tolist() == [1, 2]
    assert np.isnan(width[2]) and np.isnan(peaks[2])
    _, edge = half_maximum((k < 3).astype(float))
    assert edge == 1


def test_intervals_hold_the_values():
    got = estimates(reduced(Triangle(), DATA), num_replicates=200)
    for name in ("most_probable", "joint_mode", "peak_width", "angle_mean"):
        low, high = got[name].interval()
        assert np.all(low <= got[name].value) and np.all(got[name].value <= high), name
