"""LPIPS v0.1: how far apart two images are to the eye, by AlexNet's features (Zhang et al. 2018, CVPR)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taba_core.metrics.image_distance import ImageDistance
from taba_core.metrics.lpips_package import PACKAGES, distances_of_pairs
from taba_core.metrics.measure import HubFile

if TYPE_CHECKING:
    from torch import Tensor

ALEXNET = HubFile(
    name="alexnet-owt-7be5be79.pth",
    network="AlexNet",
    publisher="torchvision",
    url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    sha256="7be5be79",  # torch names its files by the first digits of their SHA-256
)


class Lpips(ImageDistance):
    """d(a, b) = sum over layers of mean over positions of w^T (f(a) - f(b))^2, features f normalised over channels.

    The `lpips` package has the weights w; AlexNet's are a file of torchvision's in torch's hub folder.
    """

    name = "lpips"
    title = "LPIPS"
    packages = PACKAGES
    files = (ALEXNET,)
    least_side = 31  # AlexNet's third layer has one position left of 31 pixels, none of 30

    def pairs(self, reference: Tensor, estimate: Tensor) -> Tensor:
        """LPIPS of pairs, float32 (n,), of images (n, 3, H, W) in [-1, 1]; one pair after the other."""
        return distances_of_pairs("alex", ALEXNET, reference, estimate)
