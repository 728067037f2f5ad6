"""Crops for training are those of the photo mixture, and what is held out is never trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from taba_core import rng
from taba_core.errors import UsageError
from taba_core.models.crops import random_crops
from taba_core.models.photos import Photo, load_photos
from taba_core.training.crops import CropSource


def test_the_same_numbers_give_the_crops_that_the_mixture_is_fitted_to():
    photos = load_photos()
    source = CropSource(photos, "whole")
    for index in (0, 3, 6):
        expected = random_crops(photos[index], range(16), seed=1)
        u = rng.uniform(range(16), (4,), seed=1, stream=f"crops/{photos[index].name}")
        found = source.at(torch.full((16,), index), torch.tensor(u), 32).images.numpy()
        assert np.abs(found - expected).max() < 1e-6


def left_and_right(width: int = 200) -> tuple:
    """A photograph black where crops are trained on and white where they are held out."""
    pixels = np.zeros((100, width, 3), dtype=np.uint8)
    pixels[:, round(width * 0.85) :] = 255
    return (Photo("two", pixels),)


def test_training_crops_see_nothing_of_the_strip_that_is_held_out():
    photos = left_and_right()
    u = torch.tensor(
        [[s, y, x, m] for s in (0.0, 1.0) for y in (0.0, 1.0) for x in (0.0, 1.0) for m in (0.0, 1.0)]
    )
    photo = torch.zeros(len(u), dtype=torch.int64)
    assert (CropSource(photos, "training").at(photo, u.double(), 32).images == -1.0).all()
    held_out = CropSource(photos, "held-out").at(photo, u.double(), 32)
    assert (held_out.images == 1.0).all()
    assert (held_out.side == 30.0).all()  # 15 % of 200 pixels: narrower than 64


@pytest.mark.follows("Remove it or use a larger version.")
def test_a_photograph_too_narrow_to_hold_anything_out_is_refused():
    photos = (Photo("strip", np.zeros((100, 40, 3), dtype=np.uint8)),)
    with pytest.raises(UsageError) as error:
        CropSource(photos, "held-out")
    assert str(error.value) == (
        "photo 'strip' is 40 pixels wide, and the 15% held out for measuring are fewer than 8. Remove it or use a "
        "larger version."
    )
    for right in (
        (),
        (Photo("strip", np.zeros((200, 80, 3), dtype=np.uint8)),),
    ):  # removed, or twice as large
        assert CropSource((*right, *left_and_right()), "held-out").names == (*(p.name for p in right), "two")


def test_a_counted_crop_does_not_depend_on_its_company():
    source = CropSource(load_photos(), "training")
    together = source.counted(range(30), 32, seed=5, stream="pool")
    alone = source.counted([17], 32, seed=5, stream="pool")
    assert torch.equal(together.images[17:18], alone.images)
    assert int(alone.photo) == 7
