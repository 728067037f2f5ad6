"""LPIPS v0.1: how far apart two images are to the eye, by AlexNet's features (Zhang et al. 2018, CVPR)."""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any

from taba_core.metrics.image_distance import ImageDistance
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
    packages = ("lpips", "torchvision")
    files = (ALEXNET,)
    least_side = 31  # AlexNet's third layer has one position left of 31 pixels, none of 30

    def pairs(self, reference: Tensor, estimate: Tensor) -> Tensor:
        """LPIPS of pairs, float32 (n,), of images (n, 3, H, W) in [-1, 1].

        The network sees one pair at a time: a kernel may round otherwise for other numbers of images, and a batch shall
        equal its items.
        """
        import torch

        from taba_core.models.loading import loading
        from taba_core.models.weights import content_hash

        file = ALEXNET.path()
        with loading():
            network = _network(str(file), content_hash(file), str(reference.device))
        out = reference.new_empty(len(reference), dtype=torch.float32)
        with torch.no_grad():
            for i in range(len(reference)):
                out[i] = network(reference[i : i + 1], estimate[i : i + 1]).reshape(())
        return out


@functools.lru_cache(maxsize=4)
def _network(file: str, digest: str, device: str) -> Any:
    """The package's network with AlexNet's weights from the file, so that nothing looks for them elsewhere."""
    import torch

    from taba_core.models.torchvision_import import import_torchvision

    import_torchvision()
    import lpips

    # Its random weights are replaced; it calls torchvision in a dated way.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torchvision", category=UserWarning)
        network = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
    state = torch.load(file, map_location="cpu", weights_only=True)
    trunk = network.net
    for part in (trunk.slice1, trunk.slice2, trunk.slice3, trunk.slice4, trunk.slice5):
        for index, layer in part.named_children():
            layer.load_state_dict({name: state[f"features.{index}.{name}"] for name in layer.state_dict()})
    return network.eval().to(device)
