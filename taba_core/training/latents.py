"""Latents of a trained autoencoder: their scale made one, and the pool a latent network is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taba_core.models.codec import KLCodec
from taba_core.models.profile import profile_named
from taba_core.training.data import Part
from taba_core.training.export import load_module

_AT_ONCE = 1024  # crops in memory


@torch.no_grad()
def standardise(module: Any, images: Tensor) -> None:
    """Make the posterior means of these images have mean 0 and standard deviation 1 in every channel.

    A shift and a scale of each channel go into the two 1x1 convolutions around the latents, in place: what the decoder
    makes of an image's latents stays the same, and the scaling factor of the latents is 1.
    """
    channels = int(module.config.latent_channels)
    device = next(module.parameters()).device
    mean = torch.cat([_moments(module, piece.to(device))[:, :channels] for piece in images.split(128)])
    shift = mean.double().mean((0, 2, 3))
    scale = mean.double().std((0, 2, 3))
    encode: Any = module.quant_conv
    encode.weight[:channels] = (encode.weight[:channels].double() / scale[:, None, None, None]).float()
    encode.bias[:channels] = ((encode.bias[:channels].double() - shift) / scale).float()
    encode.bias[channels:] = (encode.bias[channels:].double() - 2.0 * scale.log()).float()
    decode: Any = module.post_quant_conv
    decode.bias += (decode.weight[:, :, 0, 0].double() @ shift).float()
    decode.weight.copy_((decode.weight.double() * scale[None, :, None, None]).float())


def _moments(module: Any, images: Tensor) -> Tensor:
    moments: Tensor = module.quant_conv(module.encoder(images))
    return moments


def latent_pool(
    autoencoder: Path, part: Part, count: int, *, seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(latents (count, C, h, w), photographs or classes (count,)) of images by counter, on the device.

    Latents are posterior means, times the scaling factor.
    """
    module, recipe, _ = load_module(autoencoder)
    codec = KLCodec(module.to(device), float(module.config.scaling_factor), profile_named("exact"))
    latents, photo = [], []
    for start in range(0, count, _AT_ONCE):
        ids = range(start, min(start + _AT_ONCE, count))
        crops = part.counted(ids, recipe.image_size, seed=seed, stream="pool")
        latents.append(codec.encode(crops.images))
        photo.append(crops.photo)
    return torch.cat(latents), torch.cat(photo)
