"""How well a denoiser predicts noise on crops that no network was trained on, level by level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from taba_core import rng
from taba_core.diffusion.denoiser import Denoiser
from taba_core.models.cards import Card
from taba_core.models.grids import timestep_grid
from taba_core.models.photos import Photo
from taba_core.training.captions import CaptionGrammar, facts_of
from taba_core.training.crops import Crops, CropSource, Region

# Axes: n crops, C channels, H rows, W columns.

NUM_INFERENCE_STEPS = 50
LEVELS = (
    0,
    1,
    2,
    4,
    7,
    12,
    19,
    28,
    38,
    49,
)  # of the grid of 50 steps; the first three decide the paper's effect
_BATCH = 128


@dataclass(frozen=True)
class Examples:
    """Crops as one model sees them.

    Attributes:
      x_0: (n, C, H, W), float32: pixels, or latents of the model's codec.
      cond: the model's conditioning of each.
      crops: the crops themselves.
    """

    x_0: Tensor
    cond: Mapping[str, Tensor]
    crops: Crops


def examples(
    model: Denoiser, card: Card, photos: Sequence[Photo], count: int, *, region: Region, seed: int
) -> Examples:
    """Crops of one region by counter, encoded and described as the model wants them.

    The i-th crop is of photograph i modulo their number; class ids and captions are those of the crops.
    """
    crops = CropSource(photos, region).counted(range(count), card.image_size, seed=seed, stream=region)
    codec = getattr(model, "codec", None)
    x_0 = codec.encode(crops.images).cpu() if codec is not None else crops.images
    return Examples(x_0, conditions(model, card, photos, crops), crops)


def conditions(model: Denoiser, card: Card, photos: Sequence[Photo], crops: Crops) -> dict[str, Tensor]:
    """What conditions a model on these crops: the photograph as class, or the caption."""
    if card.conditional == "class":
        return {"class_id": crops.photo}
    if card.conditional == "text":
        grammar = CaptionGrammar([photo.name for photo in photos])
        return dict(model.text.encode(grammar.texts(facts_of(crops))))  # type: ignore[attr-defined]
    return {}


@torch.no_grad()
def epsilon_errors(
    model: Denoiser, card: Card, given: Examples, *, seed: int, levels: Sequence[int] = LEVELS
) -> list[float]:
    """Mean of (eps_hat - eps)^2 over crops and dimensions at levels of the grid of 50 steps; 1 is no knowledge.

    The noise of crop i is a function of (seed, i), the same at every level and for every model of one shape. No x_0
    rule is applied.
    """
    shape = tuple(given.x_0.shape[1:])
    eps = torch.from_numpy(rng.normal(range(len(given.x_0)), shape, seed=seed, stream="held-out-noise"))
    grid = timestep_grid(card, NUM_INFERENCE_STEPS)
    device = getattr(model, "device", "cpu")
    errors = []
    for level in levels:
        alpha_bar = float(grid.alpha_bar[level])
        x_t = np.sqrt(alpha_bar) * given.x_0 + np.sqrt(1.0 - alpha_bar) * eps
        total = 0.0
        for start in range(0, len(x_t), _BATCH):
            rows = slice(start, start + _BATCH)
            cond = {key: value[rows].to(device) for key, value in given.cond.items()}
            found = model.eps(x_t[rows].to(device), float(grid.network_times[level]), cond).cpu()
            total += float((found - eps[rows]).double().square().mean((1, 2, 3)).sum())
        errors.append(total / len(x_t))
    return errors
