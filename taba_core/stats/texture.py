"""Texture of images and latents: local variance, and the radial power spectrum of them and of differences (Table 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taba_core.errors import UsageError
from taba_core.stats.base import Array, Block, RowStatistic, as_float64, over, ratio
from taba_core.stats.inputs import Input, mask, state
from taba_core.stats.regions import region_weights, with_all


def local_variance(x: Array) -> NDArray[np.float64]:
    """Biased variance of the 3 x 3 neighbourhood of every pixel, zero beyond the border, mean over channels.

    v = mean(x^2) - mean(x)^2 over the nine positions; (n, C, H, W) -> (n, H, W).
    """
    x = as_float64(x)
    mean = _box(x) / 9
    return np.asarray(np.maximum(_box(np.square(x)) / 9 - np.square(mean), 0.0).mean(axis=1))


def _box(x: Array) -> NDArray[np.float64]:
    """Sum over 3 x 3 neighbours, zero beyond the border."""
    for axis in (2, 3):
        low, high = (slice(None),) * axis + (slice(1, None),), (slice(None),) * axis + (slice(None, -1),)
        total = x.copy()
        total[high] += x[low]
        total[low] += x[high]
        x = total
    return x


@dataclass(frozen=True)
class LocalVariance(RowStatistic):
    """Mean local variance (`local_variance`) per region: is a latent smooth where its image is plain?

    Values: variance (3,) of plain, non_plain, all; pooled over samples and pixels.
    """

    variable: str
    region: str = "region"

    @property
    def inputs(self) -> tuple[Input, ...]:
        """A state (n, C, H, W) and the plain mask (n, H, W)."""
        return (state(self.variable), mask(self.region))

    def rows(self, block: Block) -> dict[str, Array]:
        """Sums over the pixels of either region of a sample, (n, 2)."""
        variance = local_variance(block[self.variable])
        masks = region_weights(block[self.region])
        total = (variance.reshape(len(variance), -1)[..., None] * masks).sum(axis=1)
        return {"variance": total, "pixels": masks.sum(axis=1)}

    def summarise_sums(self, sums: Mapping[str, Array], count: Array) -> dict[str, Array]:
        """Pool over samples; a region without pixels is NaN."""
        return {"variance": ratio(with_all(sums["variance"]), with_all(sums["pixels"]))}


def radial_power(x: Array, name: str = "x") -> NDArray[np.float64]:
    """Mean over channels and Fourier modes of radius k - 1/2 <= |k| < k + 1/2 of |F|^2 / (H W), (n, K).

    F is the discrete Fourier transform, |k| in cycles per image along the shorter side, K = min(H, W)/2.

    Args:
      x: (n, C, H, W).
      name: what an error calls it.

    Raises:
      UsageError: fewer than 4 pixels along a side.
    """
    x = as_float64(x)
    height, width = x.shape[2:]
    shorter = min(height, width)
    if shorter < 4:
        raise UsageError(f"{name} of {height}x{width} has no spectrum to fit; at least 4x4 pixels.")
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) * shorter
    ring = np.floor(radius + 0.5).astype(np.int64).ravel()
    power = (np.square(np.abs(np.fft.fft2(x))) / (height * width)).mean(axis=1).reshape(len(x), -1)
    rings = [ring == k for k in range(1, shorter // 2 + 1)]
    return np.stack([power[:, inside].mean(axis=1) for inside in rings], axis=1)


def spectrum_values(power: Array) -> dict[str, Array]:
    """Frequency (..., K), power (..., K) and the slope of ln power against ln k; none where a power is zero."""
    frequency = np.arange(1, power.shape[-1] + 1, dtype=np.float64)
    centred = np.log(frequency) - np.log(frequency).mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithm = np.log(power)
    defined = np.asarray(np.isfinite(logarithm).all(axis=-1))
    fitted = np.where(defined[..., None], logarithm, 0.0)
    slope = (fitted * centred).sum(axis=-1) / np.square(centred).sum()
    return {
        "frequency": np.broadcast_to(frequency, power.shape),
        "power": power,
        "slope": np.where(defined, slope, np.nan),
    }


@dataclass(frozen=True)
class PowerSpectrum(RowStatistic):
    """Radial power spectrum of images of H x W pixels, and the exponent of its decay.

    P(k) = mean over samples, channels and Fourier modes of radius k - 1/2 <= |k| < k + 1/2 of |F|^2 / (H W), with F
    the discrete Fourier transform and |k| in cycles per image along the shorter side; 1 for white noise of
    variance 1 at every k. The slope is that of the least-squares line of ln P against ln k, k = 1..min(H, W)/2:
    about -2 for photographs, 0 for white noise.

    Values: frequency (K,) = 1..K cycles per image; power (K,); slope.
    """

    variable: str

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The one variable, (n, C, H, W)."""
        return (state(self.variable),)

    def rows(self, block: Block) -> dict[str, Array]:
        """Mean power of every radius of a sample, (n, K)."""
        return {"power": radial_power(block[self.variable], self.variable)}

    def summarise_sums(self, sums: Mapping[str, Array], count: Array) -> dict[str, Array]:
        """Average over samples, then fit; no slope where a power is zero."""
        return spectrum_values(ratio(sums["power"], over(count, sums["power"])))


@dataclass(frozen=True)
class DifferencePower(RowStatistic):
    """Radial power of the differences of pairs of images, above and below half the Nyquist frequency (Figure 19).

    With P(k) = `radial_power` of estimate - reference, k = 1..K cycles per image and K = min(H, W)/2 the Nyquist
    frequency: low = mean of P(k) over k <= K/2, high = mean over k > K/2, both averaged over pairs; ratio = high / low.
    White noise of variance v has low = high = v and the ratio 1; a difference of smooth images has a ratio near 0. The
    mean of a difference (k = 0) is in neither.

    Values (scalars): high, low, ratio (NaN for images that do not differ).
    """

    reference: str = "image"
    estimate: str = "other"

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Two variables of the same shape, (n, C, H, W)."""
        return (state(self.reference, values="levels"), state(self.estimate, values="levels"))

    def rows(self, block: Block) -> dict[str, Array]:
        """Mean power above and below half the Nyquist frequency of every pair, (n,) each."""
        difference = as_float64(block[self.estimate]) - as_float64(block[self.reference])
        power = radial_power(difference, f"{self.estimate} - {self.reference}")
        above = 2 * np.arange(1, power.shape[1] + 1) > power.shape[1]
        return {"high": power[:, above].mean(axis=1), "low": power[:, ~above].mean(axis=1)}

    def summarise_sums(self, sums: Mapping[str, Array], count: Array) -> dict[str, Array]:
        """Average over pairs, then divide."""
        high, low = (ratio(sums[name], count) for name in ("high", "low"))
        return {"high": high, "low": low, "ratio": ratio(high, low)}
