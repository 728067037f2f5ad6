"""CLIP ViT-B/32 (Radford et al. 2021): images and captions in one space, whose cosine is CLIP-T."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from taba_core.metrics.extractor import Extractor
from taba_core.metrics.hub_folder import HubFolder
from taba_core.metrics.preparation import OPENAI, Preparation

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = HubFolder(
    repository="openai/clip-vit-base-patch32",
    network="CLIP ViT-B/32",
    model_type="clip",
    width=("projection_dim", 512),
    bytes=606_000_000,
    licence="MIT",
    more=("vocab.json", "merges.txt"),
)
PREPARE = Preparation(shorter=224, side=224, scale=OPENAI)
NUM_TOKENS = 77  # that the text network reads; longer captions are cut
CLIP_SCORE_FACTOR = 2.5


class Clip(Extractor):
    """The projected class token, as it comes; CLIP-T is its cosine with the projected text.

    Weights: openai/clip-vit-base-patch32 (151.3 million parameters, 606 MB, MIT), in float32 on every device.
    """

    name = "clip-vit-b-32"
    title = "CLIP ViT-B/32"
    files = (WEIGHTS,)
    num_features = 512

    def rows(self, pictures: Tensor) -> Tensor:
        """Projected images, float32 (n, 512), of uint8 RGB pictures (n, 3, H, W). Raises WorkError: no such weights."""
        import torch

        from taba_core.metrics.transformer import network_of

        images = PREPARE(pictures)
        with torch.no_grad():
            found: Tensor = (
                network_of(WEIGHTS, str(images.device)).get_image_features(pixel_values=images).pooler_output
            )
        return found

    def text_rows(self, captions: Sequence[str], *, template: str = "", device: str = "cpu") -> Tensor:
        """Projected captions, float32 (n, 512), each after the words of `template`; cut to 77 tokens.

        The recipe of CLIPScore begins captions with "A photo depicts"; the paper's code adds nothing.
        Raises WorkError: no such weights.
        """
        import torch

        from taba_core.metrics.transformer import network_of

        network = network_of(WEIGHTS, device)
        texts = [f"{template} {caption}" if template else caption for caption in captions]
        tokens = _tokenizer(str(WEIGHTS.path()), WEIGHTS.identity())(
            texts, padding="max_length", truncation=True, max_length=NUM_TOKENS, return_tensors="pt"
        ).to(device)
        with torch.no_grad():
            found: Tensor = network.get_text_features(**tokens).pooler_output
        return found


@functools.lru_cache(maxsize=2)
def _tokenizer(path: str, identity: str) -> Any:
    from taba_core.models.loading import loading

    with loading():
        from transformers import CLIPTokenizer

        return CLIPTokenizer.from_pretrained(path, local_files_only=True)


def clip_t(image_rows: Tensor, text_rows: Tensor) -> Tensor:
    """CLIP-T: the cosine of image i and caption i, float32 (n,), of rows (n, 512) each."""
    import torch.nn.functional as F

    return F.cosine_similarity(image_rows, text_rows, dim=1)


def clip_score(image_rows: Tensor, text_rows: Tensor) -> Tensor:
    """CLIPScore: 2.5 max(cosine, 0), (n,)    (Hessel et al. 2021, Eq. 1); the paper prints a hundred times as much."""
    return CLIP_SCORE_FACTOR * clip_t(image_rows, text_rows).clamp(min=0)
