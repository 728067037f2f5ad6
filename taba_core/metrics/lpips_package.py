"""The networks of the `lpips` package with weights from files of torchvision's, seen one pair of images at a time."""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any, Literal

from taba_core.errors import WorkError
from taba_core.metrics.measure import HubFile

if TYPE_CHECKING:
    from torch import Tensor

Trunk = Literal["alex", "vgg"]
PACKAGES = ("lpips", "torchvision")


def distances_of_pairs(trunk: Trunk, weights: HubFile, reference: Tensor, estimate: Tensor) -> Tensor:
    """LPIPS of pairs, float32 (n,), of images (n, 3, H, W) in [-1, 1].

    The network sees one pair at a time: a kernel may round otherwise for other numbers of images, and a batch shall
    equal its items.

    Args:
      trunk: the network whose features are compared, as the package calls it.
      weights: of that network.
      reference, estimate: the pairs.

    Raises:
      WorkError: the file has other layers than the trunk.
    """
    import torch

    from taba_core.models.loading import loading
    from taba_core.models.weights import content_hash

    file = weights.path()
    with loading():
        network = _network(trunk, str(file), content_hash(file), str(reference.device))
    out = reference.new_empty(len(reference), dtype=torch.float32)
    with torch.no_grad():
        for i in range(len(reference)):
            out[i] = network(reference[i : i + 1], estimate[i : i + 1]).reshape(())
    return out


@functools.lru_cache(maxsize=4)
def _network(trunk: Trunk, file: str, digest: str, device: str) -> Any:
    """The package's network with the trunk's weights from the file, so that nothing looks for them elsewhere."""
    import torch

    from taba_core.models.torchvision_import import import_torchvision

    import_torchvision()
    import lpips

    # Its random weights are replaced; it calls torchvision in a dated way.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torchvision", category=UserWarning)
        network = lpips.LPIPS(net=trunk, version="0.1", pnet_rand=True, verbose=False)
    state = torch.load(file, map_location="cpu", weights_only=True)
    net = network.net
    try:
        for part in (net.slice1, net.slice2, net.slice3, net.slice4, net.slice5):
            for index, layer in part.named_children():
                layer.load_state_dict(
                    {name: state[f"features.{index}.{name}"] for name in layer.state_dict()}
                )
    except (KeyError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise WorkError(
            f"{file} has no layers of the network that LPIPS compares ({first}); delete it and run "
            "`taba fetch metrics`."
        ) from None
    return network.eval().to(device)
