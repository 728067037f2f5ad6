"""How white are states in plain and in other areas? Neighbour correlation and power spectrum by region (Table 7).

The mask moves from image to image, so what is compared is summed over the pixels a region has in each image; a
correlation or divergence of one fixed position over the images has no such form.

Axes: n samples, C channels, H rows, W columns, R = 3 regions (plain, non-plain, all), K radii.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taba_core.stats.base import Array, Block, RowStatistic, as_float64, ratio
from taba_core.stats.correlation import LAGS
from taba_core.stats.inputs import Input, mask, state
from taba_core.stats.regions import region_weights
from taba_core.stats.texture import radial_power, spectrum_values


def _masks(region: Array) -> NDArray[np.float64]:
    """Indicators of plain, non-plain and all pixels, (n, H, W) of 0 and 1 -> (3, n, 1, H, W)."""
    shape = np.shape(region)
    plain, other = np.moveaxis(region_weights(region), -1, 0).reshape(2, *shape)
    return np.stack([plain, other, np.ones(shape)])[:, :, None]


@dataclass(frozen=True)
class _StateByRegion(RowStatistic):
    """A statistic of one state, cut by the plain mask."""

    variable: str = "latent"
    region: str = "region"

    @property
    def inputs(self) -> tuple[Input, ...]:
        """A state (n, C, H, W) and the plain mask (n, H, W)."""
        return (state(self.variable), mask(self.region))


@dataclass(frozen=True)
class RegionLagCorrelation(_StateByRegion):
    """Signed correlation of neighbouring pixels that lie in the same region, pooled over samples.

    r_R(dy, dx) = sum x[y, x] x[y+dy, x+dx] / sum (x[y, x]^2 + x[y+dy, x+dx]^2) / 2 over the pairs with both pixels in
    R ("all": all pairs). The mean of noise is 0 and is not subtracted, so an offset shared by an area counts as
    correlation. In [-1, 1]; 0 in expectation for white noise at every n and for every mask.

    Values:
      lags: (3, 3) by region and lag (0,1), (1,0), (1,1); value: (3,) their mean; NaN where a region has no pair.
    """

    def rows(self, block: Block) -> dict[str, Array]:
        """Products and mean squares of a sample's pairs, summed, (n, 3 regions, 3 lags)."""
        x, masks = as_float64(block[self.variable]), _masks(block[self.region])
        height, width = x.shape[2:]
        product = np.empty((len(x), len(masks), len(LAGS)))
        square = np.empty_like(product)
        for index, (dy, dx) in enumerate(LAGS):
            here, there = np.s_[..., : height - dy, : width - dx], np.s_[..., dy:, dx:]
            both = masks[here] * masks[there]
            product[..., index] = (both * x[here] * x[there]).sum(axis=(2, 3, 4)).T
            squares = (np.square(x[here]) + np.square(x[there])) / 2
            square[..., index] = (both * squares).sum(axis=(2, 3, 4)).T
        return {"product": product, "square": square}

    def summarise_sums(self, sums: Mapping[str, Array], count: Array) -> dict[str, Array]:
        """Pool over samples, then average over lags."""
        lags = ratio(sums["product"], sums["square"])
        return {"lags": lags, "value": lags.mean(axis=-1)}


@dataclass(frozen=True)
class RegionSpectrum(_StateByRegion):
    """Radial power spectrum of a state cut out by region, per entry of the region, and the exponent of its decay.

    P_R(k) = sum over samples of `radial_power` of x 1_R / sum over samples of the share of pixels in R; "all" is
    `PowerSpectrum`. 1 at every k for white noise of variance 1, whatever the masks. Of other states the spectrum is
    smeared by that of the mask, so compare it between states under the same masks.

    Values: frequency (3, K); power (3, K); slope (3,); NaN where a region has no pixel.
    """

    def rows(self, block: Block) -> dict[str, Array]:
        """Power by region and radius of a sample, (n, 3, K), and the share of its pixels in each region, (n, 3)."""
        x, masks = as_float64(block[self.variable]), _masks(block[self.region])
        power = np.stack([radial_power(x * mask, self.variable) for mask in masks], axis=1)
        return {"power": power, "share": masks.mean(axis=(2, 3, 4)).T}

    def summarise_sums(self, sums: Mapping[str, Array], count: Array) -> dict[str, Array]:
        """Divide by what white noise of variance 1 would have, then fit."""
        return spectrum_values(ratio(sums["power"], sums["share"][..., None]))
