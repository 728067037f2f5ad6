"""The classifier of crops in training: which of the photographs is a crop from, and how often is it right?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taba_core.metrics.crop_classifier import SIDE, CropNetwork, rows_of
from taba_core.metrics.preparation import to_pictures
from taba_core.training.crops import Crops
from taba_core.training.data import Source
from taba_core.training.draws import StepDraws
from taba_core.training.recipe import Recipe
from taba_core.training.trainee import Batch, ImageStream

# Axes: B rows of a step, n crops that are measured, P photographs.

COARSE = 0.25  # share of training crops that have half as many pixels a side, each standing four times


class ClassifierTrainee:
    """Crops, some of them at half the resolution, and the cross-entropy of the photograph that each is from.

    Noise and shifts of colour and contrast on the crops were tried and left out: the network knew fewer of the held-out
    crops (0.74 instead of 0.80 of 1000, one training each).
    """

    def __init__(self, recipe: Recipe, draws: StepDraws, data: ImageStream) -> None:
        self.recipe, self.draws, self.data = recipe, draws, data

    def batch(self, step: int) -> Batch:
        """The crops of a step, (B, 3, 32, 32), and their photographs, int64 (B,)."""
        images, photo, _ = self.data(step)
        repeated = halved(images).repeat_interleave(2, 2).repeat_interleave(2, 3)
        coarse = self.draws.uniform(step, "coarse", (1, 1, 1)) < COARSE
        return {"image": torch.where(coarse, repeated, images), "photo": photo}

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean cross-entropy in nats."""
        return F.cross_entropy(module(batch["image"]), batch["photo"])


def halved(images: Tensor) -> Tensor:
    """Means over 2x2 pixels: (n, 3, H, W) to (n, 3, H/2, W/2)."""
    return F.avg_pool2d(images, 2)


def measured(module: CropNetwork, source: Source, count: int, *, seed: int) -> dict[str, Any]:
    """How often a classifier is right on `count` crops by counter, as many of each photograph, as 8-bit RGB.

    Returns:
      The number of crops; the accuracy on crops of the strip that was held out, on the same at 16x16, and on others of
      the part that was trained on; and how many held-out crops of each photograph (row) were taken for each class.
    """
    crops = measured_crops(source, "held-out", count, seed=seed)
    taken = taken_for(module, to_pictures(crops.images))
    coarse = taken_for(module, to_pictures(halved(crops.images)))
    known = measured_crops(source, "training", count, seed=seed)
    confusion = torch.zeros((len(source.names), module.head.out_features), dtype=torch.int64)
    confusion.index_put_((crops.photo, taken), torch.ones_like(taken), accumulate=True)
    return {
        "measured_crops": count,
        "held_out_accuracy": _share(taken == crops.photo),
        "held_out_accuracy_at_16": _share(coarse == crops.photo),
        "training_accuracy": _share(taken_for(module, to_pictures(known.images)) == known.photo),
        "confusion": confusion.tolist(),
    }


def measured_crops(
    source: Source, region: Literal["training", "held-out"], count: int, *, seed: int
) -> Crops:
    """The crops that a classifier is measured on, (count, 3, 32, 32); that of id i is of photograph i modulo P."""
    return source.part(region).counted(range(count), SIDE, seed=seed, stream=region)


def taken_for(module: CropNetwork, pictures: Tensor) -> Tensor:
    """The photograph that a classifier takes each picture for, int64 (n,).

    Args:
      pictures: uint8 RGB, (n, 3, H, W).
    """
    weights = {name: value.detach().cpu().double() for name, value in module.named_parameters()}
    rows = rows_of(weights, pictures).double()
    return (rows @ weights["head.weight"].T + weights["head.bias"]).argmax(1)


def _share(right: Tensor) -> float:
    return round(float(right.double().mean()), 4)
