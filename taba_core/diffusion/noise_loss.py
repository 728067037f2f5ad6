"""Losses that ask of a predicted noise to look like white Gaussian noise, with their gradients in closed form.

Each returns (loss, gradient) per image: losses are polynomials of the prediction (and one logarithm), so no
graph is built, a batch equals its items, and sums are float64 whatever the prediction's type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from taba_core import rng

# Axes: B samples in a batch, C channels, H rows, W columns; J pyramid levels, R draws.

COARSEST = 8  # the pyramid ends with the first level of at most this height
LOG_GUARD = 1e-7  # added to the variance inside the logarithm (pix2pix-zero)
PATCH = 4  # side of ReNoise's patches
PATCH_GUARD = 1e-6  # added to the variances of patches (ReNoise)


def pyramid_heights(height: int) -> list[int]:
    """Heights of the J pyramid levels: halved (rounded down) until one is at most 8. 64 gives 64, 32, 16, 8."""
    heights = [height]
    while heights[-1] > COARSEST:
        heights.append(heights[-1] // 2)
    return heights


def draw_shifts(
    sample_ids: Sequence[int] | NDArray[np.integer],
    shape: tuple[int, ...],
    *,
    draws: int,
    lowest: int,
    seed: int,
    stream: str,
) -> Tensor:
    """Random roll amounts k, int64 (B, R, C, J), uniform on lowest .. h/2 - 1 for a level of height h.

    Each channel and level has its own, as in the published codes. Row i depends on (seed, stream, sample id) only.

    Args:
      shape: (C, H, W) of one state.
      draws: R, how many sets a sample needs.
      lowest: 0 (diffusers, ReNoise; k = 0 penalises the energy itself) or 1 (pix2pix-zero).
    """
    heights = np.array(pyramid_heights(shape[1]))
    choices = np.maximum(heights // 2 - lowest, 1)
    unit = rng.uniform(sample_ids, (draws, shape[0], len(heights)), seed=seed, stream=stream)
    return torch.from_numpy(lowest + np.minimum((unit * choices).astype(np.int64), choices - 1))


def autocorrelation(eps: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """Squared circular autocorrelation on a pyramid    (Parmar et al. 2023, Eq. 2; pix2pix-zero).

    L = sum_c sum_j sum_axis ( mean_pixels n * roll(n, k_cj, axis) )^2,   n = channel c, 2x2 mean-pooled j times.

    With m the mean of an axis, dL/dn = (2 m / (h w)) (roll(n, k) + roll(n, -k)); pooling hands a quarter of a
    gradient to each of its four pixels. Pooled levels are not normalised again.

    Args:
      eps: predicted noise, (B, C, H, W).
      shifts: k, int64 (B, C, J), from `draw_shifts`.

    Returns:
      L (B,) float64, dL/deps (B, C, H, W) in the type of eps.
    """
    levels = [eps]
    for _ in range(shifts.shape[2] - 1):
        levels.append(torch.stack(_quarters(levels[-1])).sum(0).div_(4))
    loss = torch.zeros(len(eps), dtype=torch.float64, device=eps.device)
    coarser = None
    for j in reversed(range(len(levels))):
        level_loss, gradient = _roll_loss(levels[j], shifts[:, :, j].to(eps.device))
        loss += level_loss
        if coarser is not None:
            for quarter in _quarters(gradient):
                quarter.add_(coarser, alpha=0.25)
        coarser = gradient
    return loss, gradient


def _quarters(level: Tensor) -> list[Tensor]:
    """Views (B, C, h/2, w/2) of the four pixels of all 2x2 blocks; a last odd row or column takes no part."""
    even = level[:, :, : level.shape[2] // 2 * 2, : level.shape[3] // 2 * 2]
    return [even[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]


def _roll_loss(n: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """One level: sum over channels and both axes of mean(n roll(n, k))^2, and its gradient."""
    loss, gradient = _row_roll_loss(n.contiguous(), shifts)
    loss_across, across = _row_roll_loss(n.transpose(2, 3).contiguous(), shifts)
    return loss + loss_across, gradient.add_(across.transpose(2, 3))


def _row_roll_loss(n: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """The axis of rows: whole rows are moved, which is much faster than single numbers."""
    height, width = n.shape[2:]
    shifts = shifts.reshape(-1, 1)
    first = torch.arange(len(shifts), device=n.device)[:, None] * height
    rows, place = n.view(-1, width), torch.arange(height, device=n.device)
    both = rows.index_select(0, (first + (place - shifts) % height).view(-1))
    both = both.add_(rows.index_select(0, (first + (place + shifts) % height).view(-1))).view(n.shape)
    # roll(n, k) and roll(n, -k) have the same mean product with n.
    mean = (n * both).sum((2, 3), dtype=torch.float64) / (2 * height * width)
    scale = (2 / (height * width) * mean).to(n.dtype)
    return mean.square().sum(1), both.mul_(scale[:, :, None, None])


def gaussian_divergence(eps: Tensor) -> tuple[Tensor, Tensor]:
    """Twice the divergence of N(mean, var) from N(0, 1), over all elements of an image    (pix2pix-zero).

    L = var + mean^2 - 1 - log(var + 1e-7), var unbiased;
    dL/deps = (1 - 1/(var + 1e-7)) 2 (eps - mean)/(n - 1) + 2 mean/n.

    Args:
      eps: predicted noise, (B, C, H, W).

    Returns:
      L (B,) float64, dL/deps (B, C, H, W) float64.
    """
    flat = eps.double().flatten(1)
    n = flat.shape[1]
    mean = flat.mean(1, keepdim=True)
    centred = flat - mean
    var = centred.square().sum(1, keepdim=True) / (n - 1)
    loss = var + mean.square() - 1 - (var + LOG_GUARD).log()
    gradient = (1 - 1 / (var + LOG_GUARD)) * (2 / (n - 1)) * centred + 2 / n * mean
    return loss[:, 0], gradient.view(eps.shape)


def patch_divergence(eps: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Divergence of 4x4 patches from those of a reference prediction, summed    (Garibi et al. 2024; ReNoise).

    L = sum over channels and patches of | log((s_r + g)/(s + g)) + (s + (m - m_r)^2)/(s_r + g) - 1 |,
    m, s mean and unbiased variance of a patch's 16 pixels, m_r, s_r of the reference's, g = 1e-6.

    A sum, not a mean: each patch is pulled as hard in a large image as in a small one. Rows and columns beyond a
    multiple of 4 take no part.

    Args:
      eps, reference: predicted noises, (B, C, H, W).

    Returns:
      L (B,) float64, dL/deps (B, C, H, W) float64.
    """
    mean, centred, var = _patch_moments(eps)
    reference_mean, _, reference_var = _patch_moments(reference)
    offset, size = mean - reference_mean, PATCH * PATCH
    reference_var = reference_var + PATCH_GUARD
    divergence = (reference_var / (var + PATCH_GUARD)).log() + (var + offset.square()) / reference_var - 1
    slope = (1 / reference_var - 1 / (var + PATCH_GUARD)) * (2 / (size - 1)) * centred
    slope += 2 / size * offset / reference_var
    return divergence.abs().flatten(1).sum(1), _unpatched(divergence.sign() * slope, eps.shape)


def _patch_moments(eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (..., 1), deviations (..., 16) and unbiased variance (..., 1) of patches (B, C, rows, columns), float64."""
    rows, columns = eps.shape[2] // PATCH, eps.shape[3] // PATCH
    cut = eps[:, :, : rows * PATCH, : columns * PATCH].double()
    split = cut.reshape(*eps.shape[:2], rows, PATCH, columns, PATCH).transpose(3, 4).flatten(4)
    mean = split.mean(-1, keepdim=True)
    centred = split - mean
    return mean, centred, centred.square().sum(-1, keepdim=True) / (PATCH * PATCH - 1)


def _unpatched(patches: Tensor, shape: torch.Size) -> Tensor:
    rows, columns = patches.shape[2:4]
    split = patches.reshape(*shape[:2], rows, columns, PATCH, PATCH).transpose(3, 4)
    image = split.reshape(*shape[:2], rows * PATCH, columns * PATCH)
    return pad(image, (0, shape[3] - image.shape[3], 0, shape[2] - image.shape[2]))


def effective_strength(strength: float, shape: Sequence[int]) -> float:
    """lambda * numel / (4 * 64 * 64): the pull that `strength` has on Stable Diffusion's latents, at any size.

    Gradients of mean losses fall as 1/numel, so a fixed lambda moves a 4x128x128 latent a quarter as much.
    """
    return strength * math.prod(shape) / (4 * 64 * 64)


def regularized(
    eps: Tensor,
    shifts: Tensor,
    *,
    lambda_ac: float,
    reduce_divergence: Callable[[Tensor], Tensor] | None,
    divergence_first: bool,
) -> Tensor:
    """Gradient descent on the autocorrelation, in turns with a divergence    (pix2pix-zero, ReNoise).

    Each round takes R steps eps <- eps - (lambda_ac / R) grad L_ac(eps) and one of `reduce_divergence`.

    Args:
      eps: predicted noise, (B, C, H, W).
      shifts: int64 (B, rounds, R, C, J); rounds may be 0.
      lambda_ac: step length; 0 skips these steps.
      reduce_divergence: one descent step on a divergence; None skips it.
      divergence_first: whether it comes before the R steps of a round or after them.

    Returns:
      eps after all rounds, in its own type.
    """
    rounds, rolls = shifts.shape[1:3]
    for turn in range(rounds):
        if reduce_divergence is not None and divergence_first:
            eps = reduce_divergence(eps)
        for roll in range(rolls if lambda_ac else 0):
            eps = eps - lambda_ac / rolls * autocorrelation(eps, shifts[:, turn, roll])[1]
        if reduce_divergence is not None and not divergence_first:
            eps = reduce_divergence(eps)
    return eps


def with_white_octaves(noise: Tensor, *, strength: float = 1.0, floor: Tensor | float = 0.0) -> Tensor:
    """Noise whose radial power spectrum is pulled to that of white noise, octave by octave, each image by itself.

    The loss sum_b (log p_b)^2, p_b the mean power of octave b over all channels (1 for white noise), has no scale and
    is smallest at p_b = 1. A factor p_b^(-strength/2) an octave leaves (1 - strength) log p_b of it.
    (After the power-spectrum term of Hwang et al., arXiv 2509.07027, of which only the abstract was readable.)

    Octave b = 1, 2, ... holds radial frequencies above 2^-(b+1) and up to 2^-b cycles a pixel, the first also all
    higher ones. The mean of each channel is left alone.

    Args:
      noise: (B, C, H, W).
      strength: 0 does nothing, 1 whitens the octaves.
      floor: power below which an octave has no pattern to scale and is left alone, a number or (B,).
    """
    spectrum = torch.fft.fft2(noise.double(), norm="ortho")
    rows, columns = (torch.fft.fftfreq(n, dtype=torch.float64, device=noise.device) for n in noise.shape[2:])
    radius = torch.hypot(rows[:, None], columns[None, :])
    octave = (-radius.clamp(min=1e-9, max=0.499).log2()).floor().long()
    power, gain = spectrum.abs().square(), torch.ones_like(spectrum.real)
    for b in octave[radius > 0].unique().tolist():
        inside = (octave == b) & (radius > 0)
        mean = power[:, :, inside].mean((1, 2))
        scale = torch.where(mean > floor, mean.clamp(min=1e-300) ** (-strength / 2), 1.0)
        gain[:, :, inside] = scale[:, None, None]
    return torch.fft.ifft2(spectrum * gain, norm="ortho").real.to(noise.dtype)
