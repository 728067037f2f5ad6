"""Crops are area means of the photograph, and a crop belongs to (photo, seed, id)."""

from __future__ import annotations

import hashlib
import tracemalloc

import numpy as np
import pytest

from taba_core.models import crops as module
from taba_core.models.crops import box_means, random_crops, real_crops
from taba_core.models.photos import Photo, load_photos

# Hashes of the first 48 crops of each photograph in the box, made when the whole integral image was in memory.
HASHES = {
    "astronaut": "72a192e4a32c4d85",
    "cat": "30149999bc63ec5a",
    "coffee": "861c8dfb10c81509",
    "flower": "dceda632b4df0891",
    "galaxies": "1d8ec0e387e8f4cd",
    "motorcycle": "d6034c26adfc251c",
    "retina": "a61de2df9b159f70",
    "rocket": "125ffea4cd007499",
    "temple": "9e4056e11e78fbb4",
    "tissue": "58aeaad1fff06135",
}


def hash_of(array):
    return hashlib.blake2b(array.tobytes(), digest_size=8).hexdigest()


@pytest.fixture(scope="module")
def photo():
    return load_photos()[0]


def test_no_bit_of_the_crops_of_the_photographs_in_the_box_has_moved():
    assert {photo.name: hash_of(random_crops(photo, range(48), seed=0)) for photo in load_photos()} == HASHES
    assert hash_of(real_crops(load_photos(), range(64), seed=0)) == "c85e539d339f914b"
    assert hash_of(random_crops(load_photos()[1], range(9), seed=3, size=24)) == "0baadcd3a576e6e1"


def whole_integral(pixels, ys, xs):
    """The definition: the integral image of the whole picture, interpolated down and then across."""
    height, width = pixels.shape[:2]
    integral = np.zeros((height + 1, width + 1, 3))
    integral[1:, 1:] = pixels.astype(np.float64).cumsum(0).cumsum(1)
    y0, x0 = np.minimum(ys.astype(int), height - 1), np.minimum(xs.astype(int), width - 1)
    fy, fx = (ys - y0)[:, :, None, None], (xs - x0)[:, :, None]
    out = []
    for i in range(len(ys)):
        rows = integral[y0[i]] + fy[i] * (integral[y0[i] + 1] - integral[y0[i]])
        corners = rows[:, x0[i]] + fx[i] * (rows[:, x0[i] + 1] - rows[:, x0[i]])
        area = np.diff(ys[i])[:, None, None] * np.diff(xs[i])[None, :, None]
        out.append((np.diff(np.diff(corners, axis=0), axis=1) / area).transpose(2, 0, 1))
    return np.array(out)


@pytest.mark.parametrize("values", [1, 700, 1 << 20])
def test_strips_of_any_height_give_the_bits_of_the_whole_integral_image(monkeypatch, values):
    monkeypatch.setattr(module, "_STRIP_VALUES", values)
    monkeypatch.setattr(module, "_LINES_AT_ONCE", 7)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (90, 130, 3), np.uint8)
    tops, lefts = generator.uniform(0, 25, (20, 1)), generator.uniform(0, 65, (20, 1))
    tops[0], lefts[0] = 26, 66  # the last lines are the picture's own borders: 26 + 64, 66 + 64
    lines = 64 * np.arange(33) / 32
    expected = whole_integral(pixels, tops + lines, lefts + lines)
    np.testing.assert_array_equal(box_means(pixels, tops + lines, lefts + lines), expected)


def test_a_large_picture_takes_the_memory_of_a_strip():
    """24 megapixels: the whole integral image would be 576 MB."""
    photo = Photo("large", np.zeros((4000, 6000, 3), np.uint8))
    tracemalloc.start()
    random_crops(photo, range(20), seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80e6


def test_a_box_mean_by_hand():
    # Columns of value 0, 10, 20. Box [0, 1.5): (0 + 5) / 1.5 = 3.333; box [1.5, 3): (5 + 20) / 1.5 = 16.667.
    pixels = np.broadcast_to(np.array([0, 10, 20], dtype=np.uint8)[None, :, None], (3, 3, 3))
    lines = np.array([[0.0, 1.5, 3.0]])
    means = box_means(pixels, lines, lines)
    np.testing.assert_allclose(means[0, 1], [[10 / 3, 50 / 3]] * 2)


def test_means_over_whole_pixels_are_plain_means(photo):
    lines = np.arange(0, 65, 2.0)[None]
    expected = photo.pixels()[:64, :64].reshape(32, 2, 32, 2, 3).mean((1, 3)).transpose(2, 0, 1)
    np.testing.assert_allclose(box_means(photo.pixels(), lines, lines)[0], expected, atol=1e-9)


def test_a_crop_depends_on_its_id_only(photo):
    crops = random_crops(photo, [3, 1, 8], seed=4)
    np.testing.assert_array_equal(crops[2:], random_crops(photo, [8], seed=4))
    assert crops.dtype == np.float32 and crops.shape == (3, 3, 32, 32)
    assert -1 <= crops.min() < crops.max() <= 1
