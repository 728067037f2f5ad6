"""Crops are area means of the photograph, and a crop belongs to (photo, seed, id)."""

from __future__ import annotations

import numpy as np
import pytest

from taba_core.models.photos import _box_means, fingerprint, load_photos, random_crops


@pytest.fixture(scope="module")
def photo():
    return load_photos()[0]


def test_ten_photographs_ship_with_the_libraries():
    photos = load_photos()
    names = "astronaut cat coffee flower galaxies motorcycle retina rocket temple tissue"
    assert " ".join(name for name, _ in photos) == names
    assert all(pixels.dtype == np.uint8 and pixels.shape[2] == 3 for _, pixels in photos)


def test_a_box_mean_by_hand():
    # Columns of value 0, 10, 20. Box [0, 1.5): (0 + 5) / 1.5 = 3.333; box [1.5, 3): (5 + 20) / 1.5 = 16.667.
    pixels = np.broadcast_to(np.array([0, 10, 20], dtype=np.uint8)[None, :, None], (3, 3, 3))
    lines = np.array([[0.0, 1.5, 3.0]])
    means = _box_means(pixels, lines, lines)
    np.testing.assert_allclose(means[0, 1], [[10 / 3, 50 / 3]] * 2)


def test_means_over_whole_pixels_are_plain_means(photo):
    _, pixels = photo
    lines = np.arange(0, 65, 2.0)[None]
    expected = pixels[:64, :64].reshape(32, 2, 32, 2, 3).mean((1, 3)).transpose(2, 0, 1)
    np.testing.assert_allclose(_box_means(pixels, lines, lines)[0], expected, atol=1e-9)


def test_a_crop_depends_on_its_id_only(photo):
    crops = random_crops(photo, [3, 1, 8], seed=4)
    np.testing.assert_array_equal(crops[2:], random_crops(photo, [8], seed=4))
    assert crops.dtype == np.float32 and crops.shape == (3, 3, 32, 32)
    assert -1 <= crops.min() < crops.max() <= 1


def test_the_fingerprint_sees_one_grey_level(photo):
    name, pixels = photo
    changed = pixels.copy()
    changed[0, 0, 0] ^= 1
    assert fingerprint([photo]) != fingerprint([(name, changed)])
    assert fingerprint([photo]) == fingerprint([(name, pixels.copy())])
