"""LPIPS v0.1: how far apart two images are to the eye, by AlexNet's features (Zhang et al. 2018, CVPR).

d(a, b) = sum over layers of mean over positions of w^T (f(a) - f(b))^2, features f normalised over channels. The
`lpips` package has the weights w; AlexNet's are a file of torchvision's in torch's hub folder. Nothing is ever
downloaded here: without package or file there is no distance, and `why_not` says what is missing.
"""

from __future__ import annotations

import functools
import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taba_core.errors import UsageError
from taba_core.models.weights import content_hash

if TYPE_CHECKING:
    import torch

PACKAGES = ("lpips", "torchvision")
WEIGHTS_NAME = "alexnet-owt-7be5be79.pth"
WEIGHTS_URL = f"https://download.pytorch.org/models/{WEIGHTS_NAME}"
# torch names its files by the first digits of their SHA-256.
WEIGHTS_SHA256 = "7be5be79"
# AlexNet's third layer has one position left of 31 pixels, none of 30.
LEAST_SIDE = 31


def weights_file() -> Path:
    """Where torch's hub keeps AlexNet: below $TORCH_HOME, else torch/ of $XDG_CACHE_HOME, else of ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or os.path.join(cache, "torch")
    return Path(home).expanduser() / "hub" / "checkpoints" / WEIGHTS_NAME


def why_not() -> str | None:
    """Why distances cannot be computed here, one sentence with the way out; None if they can.

    Imports neither torch nor lpips; a file is read once, and its hash remembered.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        them = " and ".join(missing)
        verb = "is" if len(missing) == 1 else "are"
        return f"{them} {verb} not installed; pip install -e '.[metrics]'."
    file = weights_file()
    if not file.is_file():
        return f"AlexNet's weights are not here ({file}); download them from {WEIGHTS_URL} to that file."
    digest = content_hash(file)
    if not digest.startswith(WEIGHTS_SHA256):
        return (
            f"{file} is not torchvision's AlexNet (sha256 {digest[:8]}..., not {WEIGHTS_SHA256}...); delete it and "
            f"download it again from {WEIGHTS_URL}."
        )
    return None


def check() -> None:
    """Refuse (UsageError) where distances cannot be computed; the message says what is missing and how to get it."""
    reason = why_not()
    if reason is not None:
        raise UsageError(f"LPIPS: {reason}")


def distances(reference: torch.Tensor, estimate: torch.Tensor, *, weights: str = "") -> torch.Tensor:
    """LPIPS of pairs of images, (n,) float32.

    Pair by pair: a kernel may round otherwise for other numbers of images, and a batch shall equal its items.

    Args:
      reference, estimate: (n, 3, H, W) in [-1, 1], sides of 31 and more; what lies outside is clipped, as on a screen.
      weights: first digits of the SHA-256 that AlexNet's file must have; "" asks for torchvision's, `WEIGHTS_SHA256`.
    Raises:
      UsageError: a package or the file is missing, or it is another file; or images of another shape.
    """
    import torch

    if reference.shape != estimate.shape or reference.ndim != 4 or not suits(reference.shape[1:]):
        shapes = " and ".join(str(tuple(images.shape)) for images in (reference, estimate))
        raise UsageError(
            f"LPIPS of images {shapes}: give both in one shape (n, 3, H, W) with sides of at least {LEAST_SIDE}."
        )
    check()
    found = content_hash(weights_file())
    if not found.startswith(weights):
        raise UsageError(
            f"LPIPS: {weights_file()} has sha256 {found[:8]}..., and {weights}... was asked for; this version measures "
            f"with the file from {WEIGHTS_URL}."
        )
    from taba_core.models.loading import loading

    with loading():
        network = _network(str(weights_file()), found, str(reference.device))
    out = reference.new_empty(len(reference), dtype=torch.float32)
    with torch.no_grad():
        for i in range(len(reference)):
            pair = (images[i : i + 1].float().clamp(-1, 1) for images in (reference, estimate))
            out[i] = network(*pair).reshape(())
    return out


def suits(shape: tuple[int, ...]) -> bool:
    """Whether images of that shape (channels, height, width) have a distance: RGB, and large enough."""
    return shape[0] == 3 and min(shape[1:]) >= LEAST_SIDE


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
