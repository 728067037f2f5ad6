"""How well a denoiser predicts noise on images that no network was trained on, level by level."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from taba_core import rng
from taba_core.diffusion.denoiser import Denoiser
from taba_core.diffusion.grid import TimestepGrid
from taba_core.models.cards import Card
from taba_core.models.grids import noise_schedule, timestep_grid
from taba_core.models.mixture_fit import cached_mixture
from taba_core.models.options import PhotoMixtureOptions
from taba_core.models.photo_mixture import PhotoMixture
from taba_core.training.captions import CaptionGrammar, facts_of
from taba_core.training.crops import Crops
from taba_core.training.data import PHOTOGRAPHS, Source
from taba_core.training.wiener import WienerFilter

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
Predict = Callable[[Tensor, int, slice], Tensor]


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
    model: Denoiser,
    card: Card,
    source: Source,
    count: int,
    *,
    region: Literal["training", "held-out"],
    seed: int,
) -> Examples:
    """Images by counter that are trained on, or that are not, encoded and described as the model wants them.

    The i-th crop of photographs is of photograph i modulo their number; class ids and captions are those of the images.
    """
    crops = source.part(region).counted(range(count), card.image_size, seed=seed, stream=region)
    codec = getattr(model, "codec", None)
    x_0 = codec.encode(crops.images).cpu() if codec is not None else crops.images
    return Examples(x_0, conditions(model, card, source, crops), crops)


def conditions(model: Denoiser, card: Card, source: Source, crops: Crops) -> dict[str, Tensor]:
    """What conditions a model on these images: the photograph or class, or the caption."""
    if card.conditional == "class":
        return {"class_id": crops.photo}
    if card.conditional == "text":
        grammar = CaptionGrammar(source.names)
        return dict(model.text.encode(grammar.texts(facts_of(crops))))  # type: ignore[attr-defined]
    return {}


def epsilon_errors(
    model: Denoiser, card: Card, given: Examples, *, seed: int, levels: Sequence[int] = LEVELS
) -> list[float]:
    """`errors_of` a network at levels of its grid of 50 steps. No x_0 rule is applied."""
    grid = timestep_grid(card, NUM_INFERENCE_STEPS)
    device = getattr(model, "device", "cpu")

    def predict(x_t: Tensor, level: int, rows: slice) -> Tensor:
        cond = {key: value[rows].to(device) for key, value in given.cond.items()}
        return model.eps(x_t.to(device), float(grid.network_times[level]), cond).cpu()

    return errors_of(predict, given.x_0, grid, seed=seed, levels=levels)


@torch.no_grad()
def errors_of(
    predict: Predict, x_0: Tensor, grid: TimestepGrid, *, seed: int, levels: Sequence[int] = LEVELS
) -> list[float]:
    """Mean of (eps_hat - eps)^2 over examples and dimensions at levels of a grid; 1 is no knowledge.

    The noise of example i is a function of (seed, i), the same at every level and for everything that predicts it.

    Args:
      predict: (x_t (B, C, H, W), level, rows of the examples) to eps_hat of the same shape.
      x_0: (n, C, H, W), float32.
    """
    shape = tuple(x_0.shape[1:])
    eps = torch.from_numpy(rng.normal(range(len(x_0)), shape, seed=seed, stream="held-out-noise"))
    errors = []
    for level in levels:
        at = grid.levels[level]
        x_t = at.alpha * x_0 + at.sigma * eps
        total = 0.0
        for start in range(0, len(x_t), _BATCH):
            rows = slice(start, start + _BATCH)
            found = predict(x_t[rows], level, rows)
            total += float((found - eps[rows]).double().square().mean((1, 2, 3)).sum())
        errors.append(total / len(x_t))
    return errors


def fitted_wiener(model: Denoiser, card: Card, source: Source, *, seed: int) -> WienerFilter:
    """The Wiener filter of training images as a model sees them, four images for each dimension of a state."""
    count = 4 * math.prod(card.sample_shape)
    return WienerFilter(examples(model, card, source, count, region="training", seed=seed).x_0)


class Comparison(NamedTuple):
    """Errors on the same noisy images that no network was trained on, at the levels LEVELS of a network's grid.

    Attributes:
      alpha_bar: of each level.
      network: the network's errors.
      wiener: those of a Gaussian fitted to training images, in the network's own space (pixels or latents).
      mixture: those of the exact photo mixture, without its condition; None for networks on latents and for other
        images. It is fitted to whole photographs: it has seen the strip that the network has not.
    """

    alpha_bar: list[float]
    network: list[float]
    wiener: list[float]
    mixture: list[float] | None


def compare(
    model: Denoiser, card: Card, source: Source, wiener: WienerFilter, *, count: int, seed: int
) -> Comparison:
    """A network's errors on `count` held-out images beside those of two denoisers that are exact for simpler data.

    Args:
      wiener: of training images, as `fitted_wiener` makes it; networks with one autoencoder can share it.
    """
    given = examples(model, card, source, count, region="held-out", seed=seed)
    grid = timestep_grid(card, NUM_INFERENCE_STEPS)
    filtered = errors_of(
        lambda x_t, level, rows: wiener.eps(x_t, grid.levels[level]), given.x_0, grid, seed=seed
    )
    mixture = None
    if (source.name, card.domain, card.image_size) == (PHOTOGRAPHS, "pixel", PhotoMixture.sample_shape[1]):
        exact = PhotoMixture(cached_mixture(PhotoMixtureOptions()), schedule=noise_schedule(card))
        mixture = errors_of(
            lambda x_t, level, rows: exact.eps(x_t, int(grid.timesteps[level]), {}),
            given.x_0,
            grid,
            seed=seed,
        )
    network = epsilon_errors(model, card, given, seed=seed)
    return Comparison([float(grid.alpha_bar[level]) for level in LEVELS], network, filtered, mixture)
