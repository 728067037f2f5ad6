"""Structural similarity (Wang et al. 2004) as a distance: 1 - SSIM of pictures in [-1, 1]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taba_core.metrics.image_distance import ImageDistance

if TYPE_CHECKING:
    from torch import Tensor

_WINDOW = 7
_RANGE = 2.0  # of values in [-1, 1]
_C1, _C2 = (0.01 * _RANGE) ** 2, (0.03 * _RANGE) ** 2


class Ssim(ImageDistance):
    """1 - SSIM, SSIM the mean over channels and over all 7x7 windows inside the picture, with sample covariances."""

    name = "ssim"
    title = "1 - SSIM"
    least_side = _WINDOW

    def pairs(self, reference: Tensor, estimate: Tensor) -> Tensor:
        """Distances of pairs, float32 (n,), of images (n, 3, H, W) in [-1, 1]; computed in float64."""
        import torch.nn.functional as F

        a, b = reference.double(), estimate.double()

        def mean(x: Tensor) -> Tensor:
            return F.avg_pool2d(x, _WINDOW, stride=1)

        size = _WINDOW**2
        ma, mb = mean(a), mean(b)
        saa, sbb, sab = (
            (mean(x * y) - mx * my) * size / (size - 1)
            for x, y, mx, my in ((a, a, ma, ma), (b, b, mb, mb), (a, b, ma, mb))
        )
        above = (2 * ma * mb + _C1) * (2 * sab + _C2)
        below = (ma * ma + mb * mb + _C1) * (saa + sbb + _C2)
        return (1 - (above / below).mean((1, 2, 3))).float()
