"""Errors of the unedited area: worked numbers of both presets."""

from __future__ import annotations

import numpy as np
import pytest

from taba_core.errors import UsageError
from taba_core.stats.preservation import background_errors


def pair(seed=0, side=16):
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 256, (2, 3, side, side), dtype=np.uint8) for _ in range(2))


def test_a_flat_error_by_hand():
    # Half the area is background, and every background value differs by 51/255 = .2.
    source = np.full((1, 3, 16, 16), 100, np.uint8)
    edit = np.full((1, 3, 16, 16), 151, np.uint8)
    background = np.zeros((1, 16, 16), bool)
    background[:, :8] = True
    pie, clean = (background_errors(source, edit, background, preset) for preset in ("pie", "clean"))
    assert pie["mse"] == pytest.approx([0.02]) and clean["mse"] == pytest.approx([0.04])
    assert pie["psnr"] == pytest.approx([-10 * np.log10(0.02)])  # 16.99 dB
    # Over all pixels the number is better by the share of the background.
    assert clean["psnr"] - pie["psnr"] == pytest.approx([10 * np.log10(0.5)])


def test_what_lies_outside_the_background_counts_for_nothing():
    source, edit = pair()
    background = np.zeros((2, 16, 16), bool)
    background[:, :9, 3:] = True
    for preset in ("pie", "clean"):
        before = background_errors(source, edit, background, preset)
        other = np.where(background[:, None], edit, 7).astype(np.uint8)
        after = background_errors(source, other, background, preset)
        assert np.array_equal(before["mse"], after["mse"])
        if preset == "pie":
            assert np.array_equal(before["ssim"], after["ssim"])


def test_presets_agree_where_everything_is_background():
    source, edit = pair(1)
    everywhere = np.ones((2, 16, 16), bool)
    pie, clean = (background_errors(source, edit, everywhere, preset) for preset in ("pie", "clean"))
    assert np.allclose(pie["mse"], clean["mse"]) and np.allclose(pie["psnr"], clean["psnr"])
    from skimage.metrics import structural_similarity

    expected = structural_similarity(
        source[0] / 255.0, edit[0] / 255.0, data_range=1.0, channel_axis=0, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False,
    )  # fmt: skip
    assert pie["ssim"][0] == pytest.approx(expected)


def test_equal_backgrounds_and_none():
    source, edit = pair(2)
    background = np.zeros((2, 16, 16), bool)
    background[0, 2:12, 2:12] = True
    equal = np.where(background[:, None], source, edit)
    found = background_errors(source, equal, background)
    assert found["mse"][0] == 0 and np.isinf(found["psnr"][0]) and found["ssim"][0] == pytest.approx(1.0)
    assert all(np.isnan(found[name][1]) for name in found)


def test_small_images_have_no_ssim_and_shapes_must_fit():
    source, edit = pair(3, side=10)
    found = background_errors(source, edit, np.ones((2, 10, 10), bool))
    assert np.isnan(found["ssim"]).all() and np.isfinite(found["mse"]).all()
    with pytest.raises(UsageError, match="do not fit together"):
        background_errors(source, edit, np.ones((2, 9, 10), bool))
