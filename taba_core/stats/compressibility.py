"""How much does PNG need for the pixels of a region? Plain generations compress too well (Table 5)."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taba_core.errors import UsageError
from taba_core.stats.base import Array, Block, RowStatistic, as_float64, ratio
from taba_core.stats.inputs import Input, mask, state
from taba_core.stats.regions import region_weights, transfer_mask

MIN_PIXELS = 64
_SIGNATURE_BYTES, _CHUNK_BYTES = 8, 12


def png_bits(pixels: Array) -> tuple[int, int]:
    """Bits of P RGB pixels, uint8 (P, 3), as a 1 x P PNG image at level 9: the file, and its data alone.

    The data is the compressed stream of the IDAT chunks, without signature, header and chunk frames, which are 456
    bits of every file and weigh on small regions.
    """
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[None])).save(file, format="PNG", compress_level=9)
    content = file.getbuffer()
    data, position = 0, _SIGNATURE_BYTES
    while position < len(content):
        size, kind = struct.unpack(">I4s", content[position : position + 8])
        data += size if kind == b"IDAT" else 0
        position += size + _CHUNK_BYTES
    return 8 * len(content), 8 * data


def to_bytes(
    image: Array, value_range: tuple[float, float] = (-1.0, 1.0), *, truncate: bool = False
) -> NDArray[np.uint8]:
    """Images as 8-bit levels: [low, high] -> 0..255, rounded (or truncated) and clipped; uint8 passes as it is."""
    image = np.asarray(image)
    if image.dtype == np.uint8:
        return image
    low, high = value_range
    if not high > low:
        raise UsageError(f"value_range=({low}, {high}) is empty; give (lowest, highest).")
    levels = np.clip((as_float64(image) - low) * (255 / (high - low)), 0, 255)
    return np.asarray(levels if truncate else np.rint(levels)).astype(np.uint8)


@dataclass(frozen=True)
class PngBits(RowStatistic):
    """PNG bits per pixel of the plain and non-plain pixels of images (Table 5).

    The masked pixels of an image, in raster order, are written as one 1 x P image. The mask is on the grid of the
    image or on one that `transfer_mask` brings there (the state of a latent model, its decoded image).

    Values, each (3,) for plain, non_plain, all:
      bits: mean over images of file bits / P (mean of ratios); data_bits: of the compressed data alone.
      pooled, data_pooled: sum of bits / sum of P (ratio of sums). images: how many count.
      drop from one variable to another is a ratio of two estimates.

    An image with fewer than `min_pixels` pixels in a region does not count there.

    Attributes:
      value_range: of `image`, mapped to 0..255 and rounded; ignored for uint8.
      reference: as the reference implementation does: levels truncated, every image counts, and one without
        the region as 0 bits, which pulls the mean of rare regions down.
    """

    image: str = "image"
    region: str = "region"
    value_range: tuple[float, float] = (-1.0, 1.0)
    min_pixels: int = MIN_PIXELS
    reference: bool = False

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Images (n, 3, H, W) and the plain mask (n, h, w)."""
        return (state(self.image, values="levels"), mask(self.region, grid="mask"))

    def rows(self, block: Block) -> dict[str, Array]:
        """Bits of file and data, pixels, and whether the image counts, each (n, 3)."""
        levels = to_bytes(block[self.image], self.value_range, truncate=self.reference)
        if levels.ndim != 4 or levels.shape[1] != 3:
            raise UsageError(
                f"{self.image} has shape {levels.shape}; PNG takes RGB images (n, 3, H, W). Decode first."
            )
        region_weights(block[self.region])  # refuses a mask that was not written
        try:
            plain = transfer_mask(block[self.region], *levels.shape[2:])
        except UsageError as error:
            raise UsageError(f"{self.region} of {self.image}: {error}") from None
        rows = np.array([_region_bits(x, m) for x, m in zip(levels, plain, strict=True)], dtype=np.float64)
        bits, data, pixels = rows[..., 0], rows[..., 1], rows[..., 2]
        counts = np.ones_like(pixels) if self.reference else pixels >= max(self.min_pixels, 1)
        return {"bits": bits, "data": data, "pixels": pixels, "images": counts}

    def terms(self, rows: Mapping[str, Array]) -> Mapping[str, Array]:
        """Sums and ratios of the images that count."""
        counts = rows["images"] > 0
        pixels = np.where(counts, rows["pixels"], 0.0)
        out = {"images": rows["images"], "pixels": pixels}
        for name in ("bits", "data"):
            out[f"{name}_sum"] = np.where(counts, rows[name], 0.0)
            out[f"{name}_ratio"] = np.where(pixels > 0, out[f"{name}_sum"] / np.maximum(pixels, 1), 0.0)
        return out

    def summarise_sums(self, sums: Mapping[str, Array], count: Array) -> dict[str, Array]:
        """Mean of ratios, and ratio of sums; NaN where no image counts."""
        images, pixels = sums["images"], sums["pixels"]
        return {
            "bits": ratio(sums["bits_ratio"], images),
            "data_bits": ratio(sums["data_ratio"], images),
            "pooled": ratio(sums["bits_sum"], pixels),
            "data_pooled": ratio(sums["data_sum"], pixels),
            "images": images,
        }


def _region_bits(levels: Array, plain: Array) -> list[tuple[int, int, int]]:
    """Bits of file and data and the number of pixels, of plain, non-plain, all; nothing for no pixels."""
    pixels = levels.transpose(1, 2, 0)
    chosen = (pixels[plain], pixels[~plain], pixels.reshape(-1, 3))
    return [(*png_bits(x), len(x)) if len(x) else (0, 0, 0) for x in chosen]
