"""Pictures of samples: a grid of what a network makes, above real images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taba_core import rng
from taba_core.diffusion.denoiser import Denoiser
from taba_core.diffusion.sampling import generate
from taba_core.models.cards import Card
from taba_core.models.grids import timestep_grid
from taba_core.training.checkpoint import write_whole
from taba_core.training.data import Source
from taba_core.training.heldout import NUM_INFERENCE_STEPS, conditions

COLUMNS = 10
_GAP = 2  # pixels between pictures
_SMALLEST = 64  # pixels of a picture's side in the grid


def samples(model: Denoiser, card: Card, source: Source, count: int, *, seed: int) -> Tensor:
    """Images made by DDIM in 50 steps, (count, 3, S, S), float32 about [-1, 1].

    Sample i has the noise of (seed, i), and the class or caption of the training image of (seed, i); of photographs
    that is a crop of photograph i modulo their number.
    """
    crops = source.part("training").counted(range(count), card.image_size, seed=seed, stream="pictures")
    device = getattr(model, "device", "cpu")
    noise = torch.from_numpy(rng.normal(range(count), card.sample_shape, seed=seed, stream="pictures"))
    cond = {key: value.to(device) for key, value in conditions(model, card, source, crops).items()}
    grid = timestep_grid(card, NUM_INFERENCE_STEPS)
    x_0 = generate(model, noise.to(device), grid, cond, x0_rule=card.reference.sampling_x0_rule)
    codec = getattr(model, "codec", None)
    return (codec.decode(x_0) if codec is not None else x_0).float().cpu()


def real(card: Card, source: Source, count: int, *, seed: int) -> Tensor:
    """Training images to hold beside samples, (count, 3, S, S) in [-1, 1]."""
    return source.part("training").counted(range(count), card.image_size, seed=seed, stream="pictures").images


def save_grid(path: Path, blocks: Sequence[Tensor]) -> None:
    """Write a PNG of blocks of images (n, 3, S, S) in [-1, 1], ten a row, a gap between blocks."""
    from PIL import Image

    rows = [_rows(block.numpy()) for block in blocks]
    gap = np.full((4 * _GAP, rows[0].shape[1], 3), 255, dtype=np.uint8)
    parts = [part for block in rows for part in (block, gap)][:-1]
    picture = Image.fromarray(np.concatenate(parts))
    write_whole(path, lambda temporary: picture.save(temporary, format="PNG"))


def _rows(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    scale = max(_SMALLEST // images.shape[-1], 1)
    pixels = np.clip((images.transpose(0, 2, 3, 1) + 1.0) * 127.5, 0.0, 255.0).round().astype(np.uint8)
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    side = pixels.shape[1] + _GAP
    count = -(-len(pixels) // COLUMNS)
    sheet = np.full((count * side, COLUMNS * side, 3), 255, dtype=np.uint8)
    for i, picture in enumerate(pixels):
        y, x = i // COLUMNS * side, i % COLUMNS * side
        sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return sheet
