"""The mean over positions of two random convolutions: more than second moments, and no weights to fetch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taba_core.metrics.extractor import Extractor

if TYPE_CHECKING:
    from torch import Tensor


class RandomConvolutions(Extractor):
    """Channels of the second layer of `taba_core.metrics.random_convolutions`, averaged over positions."""

    name = "random-convolutions"
    title = "random convolutions"
    stands_for = "Inception-v3"
    num_features = 128
    least_side = 8

    def rows(self, pictures: Tensor) -> Tensor:
        """Means over positions, float32 (n, 128), of uint8 RGB pictures (n, 3, H, W)."""
        import torch

        from taba_core.metrics.random_convolutions import layers

        with torch.no_grad():
            return layers(pictures.float() / 127.5 - 1)[1].mean((2, 3))
