"""Plain areas of images, and how errors and spread differ between plain and other areas (Table 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taba_core.errors import StoreError, UsageError
from taba_core.stats.base import Array, Block, RowStatistic, as_float64, mean_and_std, ratio
from taba_core.stats.inputs import Input, mask, state
from taba_core.stats.moments import gaussian_kl

REGIONS = ("plain", "non_plain", "all")
THRESHOLD = 0.025


def plain_mask(
    image: Array, threshold: float = THRESHOLD, value_range: tuple[float, float] = (-1.0, 1.0)
) -> NDArray[np.bool_]:
    """Pixels whose neighbours below and to the right are nearly the same in every channel (paper, App. I).

    D = (|x[y+1] - x[y]| + |x[x+1] - x[x]|) / 2 per channel, a missing neighbour counts 0 (so the bottom right
    pixel is always plain); plain where D < threshold in all channels.

    Args:
      image: (n, C, H, W).
      threshold: in units of images on [-1, 1]; 0.025 is 3.2 grey levels.
      value_range: range of `image`; differences are rescaled from it to [-1, 1].

    Returns:
      (n, H, W), True where plain.

    >>> image = np.zeros((1, 1, 2, 3))
    >>> image[..., 2] = 1
    >>> plain_mask(image)[0].tolist()  # the last column has no neighbour on its right
    [[True, False, True], [True, False, True]]
    """
    low, high = value_range
    if not high > low:
        raise UsageError(f"value_range=({low}, {high}) is empty; give (lowest, highest).")
    x = as_float64(image)
    step = np.zeros_like(x)
    step[:, :, :-1, :] += np.abs(np.diff(x, axis=2))
    step[:, :, :, :-1] += np.abs(np.diff(x, axis=3))
    return np.asarray(np.all(step * (2 / (high - low)) / 2 < threshold, axis=1))


def area_average(image: Array, cell: int) -> NDArray[np.float64]:
    """Mean over cell x cell pixels, (n, C, H, W) -> (n, C, H/cell, W/cell): an image on its latent's grid."""
    return _cells(as_float64(image), cell).mean(axis=(-3, -1))


def plain_cells(mask: Array, cell: int) -> NDArray[np.bool_]:
    """Cells all of whose pixels are plain, (n, H, W) -> (n, H/cell, W/cell): the strict mask of a latent."""
    return np.asarray(_cells(np.asarray(mask, dtype=bool), cell).all(axis=(-3, -1)))


def transfer_mask(mask: Array, height: int, width: int) -> NDArray[np.bool_]:
    """A plain mask on another grid of the same picture, (n, h, w) -> (n, height, width).

    To a finer grid every pixel takes the value of the cell it lies in. To a coarser one a cell is plain if all
    its pixels are (`plain_cells`): a mask never gains plain area on the way. The other rule for latent models,
    the paper's default here, is to average the picture first (`area_average`) and to take `plain_mask` of that.

    Raises:
      UsageError: neither grid is a whole multiple of the other.
    """
    mask = np.asarray(mask)
    h, w = mask.shape[1:]
    if h % height == 0 and h // height * width == w:
        return plain_cells(mask, h // height)
    if height % h == 0 and height // h * w == width:
        return np.asarray(mask.repeat(height // h, axis=1).repeat(height // h, axis=2), dtype=bool)
    raise UsageError(
        f"a mask of {h}x{w} does not fit {height}x{width} pixels; one grid must be a whole multiple of the other."
    )


def _cells(values: Array, cell: int) -> Array:
    height, width = values.shape[-2:]
    if cell < 1 or height % cell or width % cell:
        raise UsageError(f"cell={cell} does not divide {height}x{width} pixels; use a divisor of both.")
    return values.reshape(*values.shape[:-2], height // cell, cell, width // cell, cell)


def region_weights(region: Array) -> NDArray[np.float64]:
    """Indicator of plain and of non-plain pixels, (n, H, W) of 0 and 1 -> (n, H W, 2).

    Raises:
      StoreError: values other than 0 and 1 (255 marks a region that was never written).
    """
    region = np.asarray(region)
    if region.dtype != bool and not np.isin(region, (0, 1)).all():
        raise StoreError(
            "region holds values other than 0 and 1: it was not (fully) written. Compute the regions first."
        )
    plain = as_float64(region).reshape(len(region), -1)
    return np.stack([plain, 1 - plain], axis=-1)


def with_all(by_region: Array) -> NDArray[np.float64]:
    """Append the sum over plain and non-plain as third region, on the last axis."""
    return np.concatenate([by_region, by_region.sum(axis=-1, keepdims=True)], axis=-1)


@dataclass(frozen=True)
class RegionError(RowStatistic):
    """Error of `estimate` against `reference`, and the spread of both, per region (Table 3).

    error_R = sum over region R of |reference - estimate| / number of entries, pooled over samples, channels,
    pixels; std_R = standard deviation of all entries of the region about their pooled mean. Units: those of
    the variables.

    Values, each (3,) for plain, non_plain, all:
      error, rms_error; std (of `estimate`), std_reference; correlation (of both); kl: KL(N_reference || N_estimate)
      of one Gaussian each for the entries of the region (nats); share: part of the entries.
    """

    reference: str = "noise"
    estimate: str = "latent"
    region: str = "region"

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Two states (n, C, H, W) and the plain mask (n, H, W)."""
        return (state(self.reference), state(self.estimate), mask(self.region))

    def rows(self, block: Block) -> dict[str, Array]:
        """Sums over the entries of either region of a sample, each (n, 2)."""
        u, v = as_float64(block[self.reference]), as_float64(block[self.estimate])
        n, channels = u.shape[:2]
        masks = region_weights(block[self.region])

        def sums(entries: Array) -> Array:
            by_pixel = entries.reshape(n, channels, -1).sum(axis=1)
            return np.stack([(by_pixel * masks[..., region]).sum(axis=1) for region in (0, 1)], axis=-1)

        return {
            "entries": channels * masks.sum(axis=1),
            "absolute": sums(np.abs(u - v)),
            "square": sums(np.square(u - v)),
            "u": sums(u),
            "uu": sums(np.square(u)),
            "v": sums(v),
            "vv": sums(np.square(v)),
        }

    def summarise_sums(self, sums: Mapping[str, Array], count: Array) -> dict[str, Array]:
        """Pool over samples; a region without entries is NaN."""
        s = {name: with_all(values) for name, values in sums.items()}
        mean_u, std_u = mean_and_std(s["entries"], s["u"], s["uu"])
        mean_v, std_v = mean_and_std(s["entries"], s["v"], s["vv"])
        return {
            "error": ratio(s["absolute"], s["entries"]),
            "rms_error": np.sqrt(ratio(s["square"], s["entries"])),
            "std": std_v,
            "std_reference": std_u,
            "correlation": _correlation(s),
            "kl": gaussian_kl(mean_u, std_u, mean_v, std_v),
            "share": ratio(s["entries"], s["entries"][..., 2:]),
        }


def _correlation(sums: Mapping[str, Array]) -> Array:
    """Correlation of the entries of two variables, of whose squared difference the sum is known."""
    mean = {name: ratio(sums[name], sums["entries"]) for name in ("u", "v", "uu", "vv", "square")}
    variance = [mean[name * 2] - mean[name] ** 2 for name in ("u", "v")]
    product = (mean["uu"] + mean["vv"] - mean["square"]) / 2
    return ratio(product - mean["u"] * mean["v"], np.sqrt(np.maximum(variance[0] * variance[1], 0.0)))
