"""LPIPS v0.1 by VGG16's features (Zhang et al. 2018, CVPR); its numbers do not compare with those by AlexNet's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taba_core.metrics.image_distance import ImageDistance
from taba_core.metrics.lpips_package import PACKAGES, distances_of_pairs
from taba_core.metrics.measure import HubFile

if TYPE_CHECKING:
    from torch import Tensor

VGG16 = HubFile(
    name="vgg16-397923af.pth",
    network="VGG16",
    publisher="torchvision",
    url="https://download.pytorch.org/models/vgg16-397923af.pth",
    sha256="397923af",  # torch names its files by the first digits of their SHA-256
)


class LpipsVgg(ImageDistance):
    """The formula of `Lpips` on the last ReLU of each of VGG16's five stages.

    The `lpips` package has the weights w; VGG16's are a file of torchvision's in torch's hub folder.
    """

    name = "lpips-vgg"
    title = "LPIPS (VGG16)"
    packages = PACKAGES
    files = (VGG16,)
    least_side = 16  # the fifth stage has one position left of 16 pixels, none of 15

    def pairs(self, reference: Tensor, estimate: Tensor) -> Tensor:
        """LPIPS of pairs, float32 (n,), of images (n, 3, H, W) in [-1, 1]; one pair after the other."""
        return distances_of_pairs("vgg", VGG16, reference, estimate)
