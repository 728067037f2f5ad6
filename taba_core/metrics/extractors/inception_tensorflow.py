"""Inception-v3 features of pictures resized inside the network, as TensorFlow's first FID did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taba_core.metrics.extractor import Extractor
from taba_core.metrics.inception import WEIGHTS, network

if TYPE_CHECKING:
    from torch import Tensor


class InceptionTensorflow(Extractor):
    """The last pooling layer, the file's own bilinear resizing before it: clean-fid's mode `legacy_tensorflow`.

    Weights: as of `inception-clean`.
    """

    name = "inception-legacy-tensorflow"
    title = "Inception-v3, TensorFlow's resizing"
    files = (WEIGHTS,)
    num_features = 2048

    def rows(self, pictures: Tensor) -> Tensor:
        """Features, float32 (n, 2048), of uint8 RGB pictures (n, 3, H, W). Raises WorkError: no such weights."""
        import torch

        with torch.no_grad():
            found: Tensor = network(str(pictures.device))(pictures.float(), return_features=True)
        return found.reshape(len(pictures), -1).float()
