"""DINO ViT-S/16 (Caron et al. 2021): what "DINO similarity" of the literature and of the reference code is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taba_core.metrics.extractor import Extractor
from taba_core.metrics.hub_folder import HubFolder
from taba_core.metrics.preparation import IMAGENET, Preparation

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = HubFolder(
    repository="facebook/dino-vits16",
    network="DINO ViT-S/16",
    model_type="vit",
    width=("hidden_size", 384),
    bytes=87_000_000,
    licence="Apache-2.0",
)
PREPARE = Preparation(shorter=256, side=224, scale=IMAGENET)


class Dino(Extractor):
    """The class token after the last layer norm; two images are as alike as the cosine of theirs.

    Weights: facebook/dino-vits16 (21.7 million parameters, 87 MB, Apache-2.0). The preprocessing that lies beside them
    on the hub squashes to 224 pixels and scales by .5; DINO was trained on crops with ImageNet's scale, as here.
    """

    name = "dino-vits16"
    title = "DINO ViT-S/16"
    files = (WEIGHTS,)
    num_features = 384

    def rows(self, pictures: Tensor) -> Tensor:
        """Class tokens, float32 (n, 384), of uint8 RGB pictures (n, 3, H, W). Raises WorkError: no such weights."""
        from taba_core.metrics.transformer import class_token

        return class_token(WEIGHTS, PREPARE(pictures))
