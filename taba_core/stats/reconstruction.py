"""How well is the image recovered? (reconstruction columns of Tables 4, 7, 9)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from taba_core.stats.base import Array, Block, RowStatistic, flat, over, ratio
from taba_core.stats.inputs import Input, entries


@dataclass(frozen=True)
class ReconstructionError(RowStatistic):
    """Absolute error and peak signal-to-noise ratio of one image against another.

    PSNR = 10 log10(value_range^2 / MSE), decibel. `value_range` is the true range of the images: 2 on [-1,
    1], 255 for uint8. The MSE of an image is held above (2^-24 value_range)^2, float32 resolution, so
    identical images read 144.5 dB instead of infinity.

    Values (scalars): mae, mse, psnr (mean of the images' PSNR, the tables' number), psnr_std (over images),
    psnr_pooled (of the mean MSE).
    """

    reference: str = "image"
    estimate: str = "reconstruction"
    value_range: float = 2.0

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Two variables of the same shape, (n, ...)."""
        return (entries(self.reference, values="levels"), entries(self.estimate, values="levels"))

    def rows(self, block: Block) -> dict[str, Array]:
        """Mean absolute and squared error of every image."""
        error = flat(block[self.reference]) - flat(block[self.estimate])
        return {"mae": np.abs(error).mean(axis=1), "mse": np.square(error).mean(axis=1)}

    def terms(self, rows: Mapping[str, Array]) -> Mapping[str, Array]:
        """Add the PSNR of every image and its square."""
        psnr = self._psnr(rows["mse"])
        return {**rows, "psnr": psnr, "psnr2": np.square(psnr)}

    def summarise_sums(self, sums: Mapping[str, Array], count: Array) -> dict[str, Array]:
        """Average over images."""
        mean = {name: ratio(total, over(count, total)) for name, total in sums.items()}
        deviations = np.maximum(sums["psnr2"] - count * mean["psnr"] ** 2, 0.0)
        return {
            "mae": mean["mae"],
            "mse": mean["mse"],
            "psnr": mean["psnr"],
            "psnr_std": np.sqrt(ratio(deviations, np.where(count > 1, count - 1, np.nan))),
            "psnr_pooled": self._psnr(mean["mse"]),
        }

    def _psnr(self, mse: Array) -> Array:
        lowest = (2.0**-24 * self.value_range) ** 2
        return np.asarray(10 * np.log10(self.value_range**2 / np.maximum(mse, lowest)))
