"""Inception-v3 features of pictures resized as clean-fid's mode `clean` does (Parmar et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taba_core.metrics.extractor import Extractor
from taba_core.metrics.inception import WEIGHTS, network, resized_clean

if TYPE_CHECKING:
    from torch import Tensor


class InceptionClean(Extractor):
    """The last pooling layer of x / 128 - 1, x resized by Pillow's bicubic filter: a Fréchet distance of it is `clean`.

    Weights: inception-2015-12-05.pt (NVIDIA's TorchScript of TensorFlow's network of 2015, 23.9 million parameters,
    about 96 MB; the network is Apache-2.0), in torch's hub folder.
    """

    name = "inception-clean"
    title = "Inception-v3, clean resizing"
    files = (WEIGHTS,)
    num_features = 2048

    def rows(self, pictures: Tensor) -> Tensor:
        """Features, float32 (n, 2048), of uint8 RGB pictures (n, 3, H, W). Raises WorkError: no such weights."""
        import torch

        images = (resized_clean(pictures) - 128) / 128
        with torch.no_grad():
            found: Tensor = network(str(pictures.device)).layers.forward(images)
        return found.reshape(len(pictures), -1).float()
