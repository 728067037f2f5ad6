"""Inception-v3 of 2015 as a TorchScript file, the network whose features the FID is defined by; resizing as clean-fid.

One network gives other numbers with every way of resizing to 299 pixels (Parmar et al. 2022), so a measure names its
own.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from taba_core.errors import WorkError
from taba_core.metrics.measure import HubFile

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = HubFile(
    name="inception-2015-12-05.pt",
    network="Inception-v3",
    publisher="NVIDIA",
    url="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    sha256="",  # nobody states it: the identity is the hash of the file that is here
)
SIDE = 299


def resized_clean(pictures: Tensor) -> Tensor:
    """Mode `clean`: each channel in float32 by Pillow's bicubic filter, clipped to 0..255 and not rounded.

    uint8 RGB (n, 3, H, W) to float32 (n, 3, 299, 299) in [0, 255].
    """
    import torch
    from PIL import Image

    planes = pictures.cpu().numpy().astype(np.float32)
    resized = [
        [
            np.asarray(Image.fromarray(plane).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
            for plane in picture
        ]
        for picture in planes
    ]
    return torch.as_tensor(np.asarray(resized), device=pictures.device).clamp(0, 255)


def network(device: str) -> Any:
    """The TorchScript network, loaded once. Raises WorkError: the file is missing, or it is no such network."""
    if reason := WEIGHTS.why_not():
        raise WorkError(f"{WEIGHTS.network}: {reason}")
    return _network(str(WEIGHTS.path()), WEIGHTS.identity(), device)


@functools.lru_cache(maxsize=2)
def _network(file: str, identity: str, device: str) -> Any:
    import torch

    try:
        loaded = torch.jit.load(file, map_location=device).eval()
        _ = loaded.layers
    except (RuntimeError, AttributeError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WorkError(
            f"{file} is not Inception-v3 as TorchScript ({first}); delete it and run `taba fetch metrics`."
        ) from None
    return loaded
