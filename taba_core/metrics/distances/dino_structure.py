"""Structure distance of DINO ViT-B/8: how far apart the layouts of two images are (Tumanyan et al. 2022, CVPR)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taba_core.metrics.hub_folder import HubFolder
from taba_core.metrics.image_distance import ImageDistance
from taba_core.metrics.preparation import IMAGENET, Preparation

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = HubFolder(
    repository="facebook/dino-vitb8",
    network="DINO ViT-B/8",
    model_type="vit",
    width=("hidden_size", 768),
    bytes=343_000_000,
    licence="Apache-2.0",
)
PREPARE = Preparation(shorter=224, side=224, scale=IMAGENET)


class DinoStructure(ImageDistance):
    """Mean of (S(f) - S(s))^2 over all pairs of tokens, S_ij the cosine of the keys i and j of the last layer.

    785 tokens of 224 x 224 pixels: the class token and 28 x 28 patches. PIE-Bench's code scales pictures of 0..255 as
    if they were in [0, 1]; here they are in [0, 1], as DINO was trained.

    Weights: facebook/dino-vitb8 (85.8 million parameters, 343 MB, Apache-2.0).
    """

    name = "dino-structure"
    title = "DINO structure distance"
    files = (WEIGHTS,)

    def pairs(self, reference: Tensor, estimate: Tensor) -> Tensor:
        """Structure distances of pairs, float32 (n,). Raises WorkError: no such weights."""
        import torch

        found = [
            (self_similarity(one) - self_similarity(other)).square().mean()
            for one, other in zip(reference.split(1), estimate.split(1), strict=True)
        ]
        return torch.stack(found).float()


def self_similarity(image: Tensor) -> Tensor:
    """S of one image (1, 3, H, W) in [-1, 1]: cosines of the last layer's keys, (tokens, tokens)."""
    import torch

    from taba_core.metrics.transformer import network_of

    network = network_of(WEIGHTS, str(image.device))
    # Versions of transformers name the layer otherwise; it is the last projection to keys of all of them.
    layers = [part for name, part in network.named_modules() if name.endswith((".k_proj", ".attention.key"))]
    keys: list[Tensor] = []
    hook = layers[-1].register_forward_hook(lambda module, entering, output: keys.append(output[0]))
    try:
        with torch.no_grad():
            network(pixel_values=PREPARE(((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)))
    finally:
        hook.remove()
    unit = torch.nn.functional.normalize(keys[0], dim=-1)
    return unit @ unit.T
