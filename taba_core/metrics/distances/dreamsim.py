"""DreamSim: how far apart two images are to the eye, by the rows of three networks (Fu et al. 2023, NeurIPS)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taba_core.metrics.image_distance import ImageDistance
from taba_core.metrics.measure import HubFile
from taba_core.metrics.release_folder import ReleaseFolder

if TYPE_CHECKING:
    from torch import Tensor

# Not among the files of the release: the package takes DINO from DINO's own page.
DINO = HubFile(
    name="dino_vitbase16_pretrain.pth",
    network="DINO ViT-B/16",
    publisher="Meta",
    url="https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
    sha256="",  # nobody states it: the identity is the hash of the file that is here
)
ENSEMBLE = ReleaseFolder(
    name="dreamsim-ensemble",
    network="DreamSim",
    url="https://github.com/ssundaram21/dreamsim/releases/download/v0.2.0-checkpoints/"
    "dreamsim_ensemble_checkpoint.zip",
    files=(
        "clip_vitb16_pretrain.pth.tar",
        "open_clip_vitb16_pretrain.pth.tar",
        "ensemble_lora/adapter_config.json",
    ),
    one_of=("ensemble_lora/adapter_model.safetensors", "ensemble_lora/adapter_model.bin"),
    bytes=700_000_000,
    licence="MIT",
)
SIDE = 224


class DreamSim(ImageDistance):
    """d(a, b) = 1 - cos(u, v) of rows u, v: three networks' rows side by side, less the mean of their entries.

    The networks are DINO ViT-B/16 and the CLIP ViT-B/16 of OpenAI and of open_clip, each with the low-rank changes of
    DreamSim's training. They see the 8-bit images squashed to 224 x 224 pixels by Pillow's bicubic filter.
    """

    name = "dreamsim"
    title = "DreamSim"
    files = (DINO, ENSEMBLE)

    def pairs(self, reference: Tensor, estimate: Tensor) -> Tensor:
        """DreamSim of pairs, float32 (n,), of images (n, 3, H, W) in [-1, 1].

        For rows of unit length 1 - cos(u, v) = |u - v|^2 / 2, which is 0 where u = v.
        """
        u, v = self.rows(reference), self.rows(estimate)
        return ((u - v).square().sum(dim=1) / 2).float()

    def rows(self, images: Tensor) -> Tensor:
        """Rows of unit length, float64 (n, 1792), of images (n, 3, H, W) in [-1, 1].

        The networks see one image at a time: a kernel may round otherwise for other numbers of images, and a batch
        shall equal its items.

        Raises:
          WorkError: a file holds other weights.
        """
        import torch

        from taba_core.metrics.dreamsim_network import network_of
        from taba_core.metrics.preparation import Squash, to_pictures

        identity = "-".join(file.identity() for file in self.files)
        network = network_of((DINO.path(), *ENSEMBLE.found()), identity, str(images.device))
        prepared = Squash(SIDE)(to_pictures(images))
        with torch.no_grad():
            return torch.cat([network(prepared[i : i + 1]) for i in range(len(prepared))])
