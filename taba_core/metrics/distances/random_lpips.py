"""The formula of LPIPS on features with random weights: a stand-in that needs no files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taba_core.metrics.image_distance import ImageDistance

if TYPE_CHECKING:
    from torch import Tensor


class RandomLpips(ImageDistance):
    """d(a, b) = sum over two layers of mean over positions of ||f(a) - f(b)||^2, f normalised over channels.

    The layers are those of `taba_core.metrics.random_convolutions`; every channel has the weight 1.
    """

    name = "random-lpips"
    title = "LPIPS of random features"
    stands_for = "LPIPS"
    least_side = 8

    def pairs(self, reference: Tensor, estimate: Tensor) -> Tensor:
        """Distances of pairs, float32 (n,), of images (n, 3, H, W) in [-1, 1]: the sum over the two layers."""
        import torch

        from taba_core.metrics.random_convolutions import layers

        total = reference.new_zeros(len(reference))
        with torch.no_grad():
            for a, b in zip(layers(reference), layers(estimate), strict=True):
                a, b = (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in (a, b))
                total += (a - b).square().sum(1).mean((1, 2))
        return total
