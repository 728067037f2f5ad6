"""Two convolutions with seeded random weights: features that know no data, yet see texture and layout.

Layer 1: 3 to 64 channels, 5x5, stride 2; layer 2: 64 to 128 channels, 3x3, stride 2; each followed by a ReLU. Weights
are normal with variance 2 / fan-in, and counter-based: the same numbers on every machine.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from taba_core import rng

SEED = 0
_LAYERS = ((64, 3, 5), (128, 64, 3))  # outputs, inputs, side
NUM_FEATURES = _LAYERS[-1][0]
LEAST_SIDE = 8


def layers(images: Tensor) -> tuple[Tensor, Tensor]:
    """Both layers after their ReLU: (n, 3, H, W) in [-1, 1] to (n, 64, H/2, W/2) and (n, 128, H/4, W/4)."""
    first, second = _weights(images.device)
    x = F.relu(F.conv2d(images, first, stride=2, padding=2))
    return x, F.relu(F.conv2d(x, second, stride=2, padding=1))


@functools.cache
def _weights(device: torch.device) -> tuple[Tensor, ...]:
    return tuple(
        torch.as_tensor(_weight(number, *layer), device=device) for number, layer in enumerate(_LAYERS)
    )


def _weight(number: int, outputs: int, inputs: int, side: int) -> np.ndarray:
    shape = (inputs, side, side)
    values = rng.normal(np.arange(outputs), shape, seed=SEED, stream=f"random-convolutions/{number}")
    return (values * np.sqrt(2.0 / np.prod(shape))).astype(np.float32)
