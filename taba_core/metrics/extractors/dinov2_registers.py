"""DINOv2 ViT-B/14 with four register tokens (Darcet et al. 2024), which the paper cites for its DINO column."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taba_core.metrics.extractor import Extractor
from taba_core.metrics.hub_folder import HubFolder
from taba_core.metrics.preparation import IMAGENET, Preparation

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = HubFolder(
    repository="facebook/dinov2-with-registers-base",
    network="DINOv2 ViT-B/14 with registers",
    model_type="dinov2_with_registers",
    width=("hidden_size", 768),
    bytes=346_000_000,
    licence="Apache-2.0",
)
PREPARE = Preparation(shorter=256, side=224, scale=IMAGENET)


class Dinov2Registers(Extractor):
    """The class token after the last layer norm, at 224 pixels: position embeddings are interpolated from 518.

    Weights: facebook/dinov2-with-registers-base (86.6 million parameters, 346 MB, Apache-2.0).
    """

    name = "dinov2-reg-vitb14"
    title = "DINOv2 ViT-B/14 with registers"
    files = (WEIGHTS,)
    num_features = 768

    def rows(self, pictures: Tensor) -> Tensor:
        """Class tokens, float32 (n, 768), of uint8 RGB pictures (n, 3, H, W). Raises WorkError: no such weights."""
        from taba_core.metrics.transformer import class_token

        return class_token(WEIGHTS, PREPARE(pictures))
