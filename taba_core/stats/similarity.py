"""How alike are two images to the eye? Structural similarity (Tables 6, 12, Figure 19)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taba_core.errors import UsageError
from taba_core.stats.base import Array, Block, RowStatistic, as_float64, mean_and_std
from taba_core.stats.inputs import Input, state

WINDOW = 7


def structural_similarity(a: Array, b: Array, value_range: float) -> NDArray[np.float64]:
    """SSIM of pairs of images, (n, C, H, W) -> (n,): mean over channels and positions (Wang et al. 2004).

    7 x 7 uniform windows inside the image, sample covariances, C_1 = (.01 R)^2, C_2 = (.03 R)^2 with R the true
    range of values: 2 on [-1, 1], 255 for uint8.

    Raises:
      UsageError: images smaller than a window.
    """
    from skimage.metrics import structural_similarity as ssim

    if min(np.shape(a)[2:]) < WINDOW:
        raise UsageError(
            f"images of {np.shape(a)[2]}x{np.shape(a)[3]} are smaller than the {WINDOW}x{WINDOW} window."
        )
    pairs = zip(as_float64(a), as_float64(b), strict=True)
    options = {"win_size": WINDOW, "data_range": value_range, "channel_axis": 0}
    return np.array([ssim(x, y, **options) for x, y in pairs], dtype=np.float64)


@dataclass(frozen=True)
class StructuralSimilarity(RowStatistic):
    """Structural similarity of pairs of images, see `structural_similarity`.

    `reference_range` and `estimate_range` are the (low, high) that map to 0 and 1 first: for sets of images that are
    each scaled by their own extremes (`ValueRange`), with a value_range of 1.

    Values (scalars): ssim, mean over pairs; ssim_std over pairs (n - 1).
    """

    reference: str = "image"
    estimate: str = "reconstruction"
    value_range: float = 2.0
    reference_range: tuple[float, float] = (0.0, 1.0)
    estimate_range: tuple[float, float] = (0.0, 1.0)

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Two variables of the same shape, (n, C, H, W)."""
        return (state(self.reference, values="levels"), state(self.estimate, values="levels"))

    def rows(self, block: Block) -> dict[str, Array]:
        """SSIM of every pair."""
        a = _scaled(block[self.reference], self.reference_range)
        b = _scaled(block[self.estimate], self.estimate_range)
        return {"ssim": structural_similarity(a, b, self.value_range)}

    def terms(self, rows: Mapping[str, Array]) -> Mapping[str, Array]:
        """Add the squares."""
        return {"ssim": rows["ssim"], "square": np.square(rows["ssim"])}

    def summarise_sums(self, sums: Mapping[str, Array], count: Array) -> dict[str, Array]:
        """Average over pairs."""
        mean, std = mean_and_std(count, sums["ssim"], sums["square"])
        return {"ssim": mean, "ssim_std": std}


def _scaled(x: Array, ends: tuple[float, float]) -> NDArray[np.float64]:
    low, high = ends
    return (as_float64(x) - low) / (high - low)
