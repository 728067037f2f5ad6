"""The path between two latents of one image: what a sampler makes of the points between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from taba_core.conventions import X0Rule
from taba_core.diffusion.denoiser import Denoiser
from taba_core.diffusion.grid import TimestepGrid
from taba_core.diffusion.sampling import Conditioning, generate, working_precision
from taba_core.slerp import slerp

# Axes: B samples in a batch, C channels, H rows, W columns; M weights.

SELF_INTERPOLATION_WEIGHTS = tuple(step / 10 for step in range(11))


def between(start: Tensor, end: Tensor, weight: float, *, by_row: bool = False) -> Tensor:
    """slerp(start, end; weight) of each sample, interpolated in float64: (B, C, H, W), of the type of `start`.

    Args:
      start, end: (B, C, H, W); half precision is raised to float32.
      weight: in [0, 1]; 0 is `start` and 1 is `end`.
      by_row: one angle for every row, see `taba_core.slerp.slerp`.

    Raises:
      UsageError: shapes differ, or a weight outside [0, 1].
    """
    start = working_precision(start)
    u, v = (x.detach().cpu().numpy() for x in (start, working_precision(end)))
    return torch.from_numpy(slerp(u, v, weight, by_row=by_row)).to(start)


def generate_between(
    model: Denoiser,
    start: Tensor,
    end: Tensor,
    grid: TimestepGrid,
    weights: Sequence[float] = SELF_INTERPOLATION_WEIGHTS,
    cond: Conditioning | None = None,
    *,
    x0_rule: X0Rule = "none",
) -> Iterator[Tensor]:
    """Images of slerp(start, end; w) for each weight, by DDIM sampling: (B, C, H, W) each, T evaluations an image.

    Each image's path is on its own sphere, interpolated in float64; w = 0 samples `start` itself, w = 1 `end`.

    Args:
      start, end: latents at level T, (B, C, H, W).
      weights: each in [0, 1].

    Raises:
      UsageError: shapes differ, or a weight outside [0, 1].
    """
    for weight in weights:
        yield generate(model, between(start, end, weight), grid, cond, x0_rule=x0_rule)


def self_interpolation(
    model: Denoiser,
    noise: Tensor,
    latent: Tensor,
    image: Tensor,
    grid: TimestepGrid,
    weights: Sequence[float] = SELF_INTERPOLATION_WEIGHTS,
    cond: Conditioning | None = None,
    *,
    x0_rule: X0Rule = "none",
) -> Tensor:
    """Distance to the image along the path from its true noise to a method's latent    (after arXiv 2606.03111).

    D(w) = mean |generate(slerp(x_T, x̂_T; w)) - x_0|, mean over channels and pixels. A latent that stands for the
    noise gives a flat curve near 0; one that merely reconstructs starts and ends low and rises between. D(1) is the
    reconstruction by DDIM sampling, for methods with a sampler of their own too: the question is about the latent.

    Args:
      noise: x_T the images were generated from, (B, C, H, W).
      latent: x̂_T, same shape.
      image: x_0, same shape.
      weights: M numbers w, each in [0, 1].

    Returns:
      D, (B, M), float64, model units.

    Raises:
      UsageError: shapes differ, or a weight outside [0, 1].
    """
    path = generate_between(model, noise, latent, grid, weights, cond, x0_rule=x0_rule)
    return torch.stack([(x.double() - image.double()).abs().flatten(1).mean(1) for x in path], dim=1)
