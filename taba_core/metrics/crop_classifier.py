"""A small network that tells crops of the ten photographs apart: features that were learned, if from ten pictures.

Four convolutions, each followed by a ReLU, to 64 channels of 8x8; the means over positions, divided by their root mean
square; and a linear map to one number a photograph. It is trained by `taba_core.training.classifier`, and its weights
come with taba.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Axes: n pictures, P photographs.

SIDE = 32  # pixels of a side that the network reads
NUM_FEATURES = 64
_CHANNELS = (3, 32, 48, 64, NUM_FEATURES)
_SIDES = (5, 3, 3, 3)  # of the kernels
_STRIDES = (2, 2, 1, 1)
_LEAST_SQUARE = 1e-6  # added to the mean square, which may be 0


class CropNetwork(nn.Module):
    """The network in training; its initial weights are He's (2015), those of the linear map torch's own.

    Args:
      num_classes: P.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(inputs, outputs, side)
            for inputs, outputs, side in zip(_CHANNELS, _CHANNELS[1:], _SIDES, strict=False)
        )
        self.head = nn.Linear(NUM_FEATURES, num_classes)
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the photographs, (n, P), of images (n, 3, 32, 32) in [-1, 1]."""
        logits: Tensor = self.head(features_of(dict(self.named_parameters()), images))
        return logits


def features_of(weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """What the linear map reads: (n, 64), not negative, with a mean square of 1, of images (n, 3, 32, 32) in [-1, 1].

    Divided by their root mean square, features of a crop of high contrast are no larger than others: without that a few
    such crops decide moments of the features.

    Args:
      weights: by the names of `CropNetwork`, of the images' type and on their device.
    """
    x = images
    for layer, (side, stride) in enumerate(zip(_SIDES, _STRIDES, strict=True)):
        weight, bias = weights[f"layers.{layer}.weight"], weights[f"layers.{layer}.bias"]
        x = F.relu(F.conv2d(x, weight, bias, stride=stride, padding=side // 2))
    means = x.mean((2, 3))
    return means / (means.square().mean(1, keepdim=True) + _LEAST_SQUARE).sqrt()


def rows_of(weights: Mapping[str, Tensor], pictures: Tensor) -> Tensor:
    """`features_of` pictures, float32 (n, 64).

    They are computed in float64 and then rounded: what depends on the order of a sum (the number of threads, of
    pictures at a time, the device) lies some nine digits below what is kept.

    Args:
      weights: float64, by the names of `CropNetwork`.
      pictures: uint8 RGB, (n, 3, H, W), see `to_side`.
    """
    with torch.no_grad():
        return features_of(weights, to_side(pictures)).float()


def to_side(pictures: Tensor) -> Tensor:
    """Pictures as the network reads them: uint8 (n, 3, H, W) to float64 (n, 3, 32, 32) in [-1, 1].

    A value is the mean over one box of a grid of 32x32 laid over the picture, as in the crops that the network was
    trained on. Of 64x64 pixels that is the mean of four. Of 16x16 pixels a box covers a quarter of one, so every pixel
    stands four times.
    """
    down, right = (_box_weights(size).to(pictures.device) for size in pictures.shape[2:])
    return down @ (pictures.double() / 127.5 - 1) @ right.T


def _box_weights(size: int) -> Tensor:
    """Share of each of `size` pixels in each of 32 equal boxes along one side, float64 (32, size)."""
    edges = torch.arange(SIDE + 1, dtype=torch.float64) * size / SIDE
    pixels = torch.arange(size, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return overlap.clamp(min=0) * SIDE / size
