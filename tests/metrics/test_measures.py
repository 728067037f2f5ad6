"""Every extractor and every image distance obeys its contract; stand-ins have worked numbers."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from taba_core.errors import UsageError
from taba_core.metrics.extractor import extractor_named, extractors
from taba_core.metrics.image_distance import distance_named, distances
from taba_core.metrics.random_convolutions import layers
from taba_core.models.crops import real_crops
from taba_core.models.photos import load_photos

HERE = [name for name, of in {**extractors(), **distances()}.items() if of.why_not() is None]


def pictures(count=5, size=32):
    generator = torch.Generator().manual_seed(0)
    return (256 * torch.rand(count, 3, size, size, generator=generator)).to(torch.uint8)


def test_they_are_found_by_being_there_and_named():
    assert {"pca-64", "random-convolutions", "crop-classifier"} <= extractors().keys()
    assert {"lpips", "random-lpips"} <= distances().keys()
    with pytest.raises(UsageError, match=r"unknown feature extractor 'pca'.*pca-64"):
        extractor_named("pca")
    with pytest.raises(UsageError, match=r"unknown image distance 'lpip'.*lpips"):
        distance_named("lpip")


def test_asking_for_them_imports_nothing_heavy():
    code = (
        "import sys\nfrom taba_core.metrics.extractor import extractors\n"
        "from taba_core.metrics.image_distance import distances\n"
        "[(of.why_not(), of.fingerprint(), of.unsuited((3, 8, 8))) for of in (*extractors().values(), "
        "*distances().values())]\n"
        "print([m for m in ('torch', 'torchvision', 'lpips', 'skimage') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", [name for name in extractors() if name in HERE])
@pytest.mark.parametrize("size", [32, 64])
def test_a_row_belongs_to_its_picture(name, size):
    extractor = extractor_named(name)
    given = pictures(size=size)
    rows = extractor.rows(given)
    assert rows.shape == (5, extractor.num_features) and rows.dtype == torch.float32
    np.testing.assert_allclose(extractor.rows(given[3:4]), rows[3:4], rtol=1e-5, atol=1e-5)
    assert torch.equal(extractor.rows(given), rows)
    assert not torch.allclose(rows[0], rows[1])


@pytest.mark.parametrize("name", [name for name in distances() if name in HERE])
def test_an_image_is_at_no_distance_from_itself_and_both_ways_are_as_far(name):
    distance = distance_named(name)
    a, b = (pictures().float() / 127.5 - 1 for _ in range(2))
    b = b.flip(0)
    assert distance.of(a, a).tolist() == [0] * 5
    assert torch.equal(distance.of(a, b), distance.of(b, a))
    assert (distance.of(a, b)[[0, 1, 3, 4]] > 1e-3).all()  # the third is itself
    assert torch.equal(distance.of(a, 3 * b), distance.of(a, (3 * b).clamp(-1, 1)))


def test_pictures_of_another_shape_are_refused_by_name():
    with pytest.raises(
        UsageError, match=r"^LPIPS of random features of images \(2, 3, 4, 4\) and \(2, 3, 4, 4\)"
    ):
        distance_named("random-lpips").of(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))
    assert extractor_named("pca-64").unsuited((3, 8, 8)) == (
        "it takes RGB images with sides of at least 16, and this model's are 3x8x8."
    )


def test_random_convolutions_of_a_constant_picture_by_hand():
    # Far from the border a constant picture c gives sum(w) c before the ReLU, and so does the second layer.
    from taba_core.metrics.random_convolutions import _weights

    first, second = _weights(torch.device("cpu"))
    assert first.shape == (64, 3, 5, 5) and second.shape == (128, 64, 3, 3)
    # Weights of variance 2 / fan-in.
    assert float(first.var()) == pytest.approx(2 / 75, rel=0.05)
    assert float(second.var()) == pytest.approx(2 / 576, rel=0.05)
    one, two = layers(torch.full((1, 3, 32, 32), 0.5))
    expected = torch.relu(first.sum((1, 2, 3)) * 0.5)
    torch.testing.assert_close(one[0, :, 8, 8], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        two[0, :, 4, 4], torch.relu((second.sum((2, 3)) * expected).sum(1)), rtol=1e-4, atol=1e-5
    )


def test_the_stand_in_for_lpips_by_its_formula():
    a, b = (real_crops(load_photos(), ids, seed=0) for ids in ([0, 1], [2, 3]))
    expected = np.zeros(2)
    for x, y in zip(layers(torch.tensor(a)), layers(torch.tensor(b)), strict=True):
        x, y = (z.double().numpy() for z in (x, y))
        x, y = (z / (np.sqrt((z**2).sum(1, keepdims=True)) + 1e-10) for z in (x, y))
        expected += ((x - y) ** 2).sum(1).mean((1, 2))
    found = distance_named("random-lpips").of(torch.tensor(a), torch.tensor(b))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_components_are_orthonormal_and_hold_most_of_the_variance_of_crops():
    from taba_core.metrics.extractors.pca import SIDE, _basis

    mean, components = _basis()
    np.testing.assert_allclose(components @ components.T, np.eye(64), atol=1e-10)
    others = real_crops(load_photos(), np.arange(200), seed=9, size=SIDE).reshape(200, -1) - mean
    kept = np.square(others @ components.T).sum() / np.square(others).sum()
    assert 0.85 < kept < 1
    # 8-bit pictures of 32 x 32: the coordinates of their averages over 2 x 2 pixels.
    given = pictures(3)
    small = (given.double() / 127.5 - 1).reshape(3, 3, 16, 2, 16, 2).mean((3, 5)).reshape(3, -1).numpy()
    np.testing.assert_allclose(
        extractor_named("pca-64").rows(given), (small - mean) @ components.T, rtol=1e-5, atol=1e-5
    )
