"""Latent models' images: decoding to 8-bit RGB, and their average over each latent position."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from taba_core.artifacts.inversion import RoundTrip
from taba_core.errors import UsageError


def decoded_rgb(model: Any, x_0: torch.Tensor) -> NDArray[np.uint8]:
    """Images of latents by the model's codec: (B, C, h, w) to uint8 (B, 3, H, W), 0 for -1 and 255 for 1.

    Raises:
      UsageError: the model has no codec.
    """
    if getattr(model, "codec", None) is None:
        raise UsageError("decoded: the model works on pixels and has no codec; read `image`.")
    image = model.codec.decode(x_0)
    return ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()


def round_trip(
    model: Any, x_0: torch.Tensor, mode: RoundTrip, sample_ids: NDArray[np.int64], seed: int
) -> torch.Tensor:
    """Latents as an image editor would have them: decoded to 8-bit RGB and encoded again; `none` returns x_0.

    Args:
      x_0: (B, C, h, w). mode: the encoder's posterior mean, or a draw from it that belongs to (seed, sample id).
    Raises:
      UsageError: the model has no codec.
    """
    if mode == "none":
        return x_0
    rgb = torch.from_numpy(decoded_rgb(model, x_0)).to(x_0.device)
    image = rgb.to(torch.float32) / 127.5 - 1
    encoded = model.codec.encode(image, mode, sample_ids=[int(i) for i in sample_ids], seed=seed)
    return torch.as_tensor(encoded, dtype=x_0.dtype, device=x_0.device)


def latent_view(decoded: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float32]:
    """Decoded images in [-1, 1], averaged over the area of each latent position: float32 (B, 3, h, w).

    Raises:
      UsageError: the image's sides are no multiples of the latent's.
    """
    batch, channels, rows, columns = decoded.shape
    if rows % height or columns % width:
        raise UsageError(f"decoded images of {rows}x{columns} do not divide into {height}x{width} positions.")
    blocks = decoded.reshape(batch, channels, height, rows // height, width, columns // width)
    return (blocks.mean(axis=(3, 5), dtype=np.float64) / 127.5 - 1).astype(np.float32)
