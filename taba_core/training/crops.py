"""Random crops of photographs drawn on a device: what `models.crops.random_crops` draws, in bulk.

A crop is the exact mean over boxes of pixels, read off an integral image. The right 15 % of every photograph are
held out: training crops come from the rest, held-out crops from that strip alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taba_core import rng
from taba_core.errors import UsageError
from taba_core.models.crops import MAX_CROP, MIN_CROP
from taba_core.models.photos import Photo
from taba_core.training.draws import StepDraws

# Axes: B crops, S pixels of a crop's side after averaging.

Region = Literal["training", "held-out", "whole"]
HELD_OUT_SHARE = 0.15
SMALLEST_SIDE = 8  # pixels of a photograph that the narrowest crop must have


class Crops(NamedTuple):
    """Crops and where they are from.

    Attributes:
      images: (B, 3, S, S), float32 in [-1, 1].
      photo: index of the photograph, int64 (B,); of a data set's image its class.
      side: pixels of the crop's side in the photograph, float64 (B,).
    """

    images: Tensor
    photo: Tensor
    side: Tensor


class CropSource:
    """Crops of one region of some photographs.

    A crop is given by its photograph and four uniform numbers: side, top, left, mirrored. The side runs from 64 to 384
    pixels, or to the region's shorter side, which is also the smallest side where the region is narrower than 64.

    Args:
      photos: photographs; each is decoded once, and its integral image is held.
      region: the left 85 % of every photograph, the right 15 %, or all of it.
      device: where crops are made.
    Raises:
      UsageError: a photograph whose region is too narrow for any crop.
    """

    def __init__(
        self, photos: Sequence[Photo], region: Region, *, device: str | torch.device = "cpu"
    ) -> None:
        self.device = torch.device(device)
        self.names = tuple(photo.name for photo in photos)
        parts = [_region(photo, region) for photo in photos]
        integrals = [_integral(pixels) for pixels in parts]
        starts = np.cumsum([0, *(len(integral) for integral in integrals)])[:-1]
        self._integral = torch.tensor(np.concatenate(integrals), device=self.device)
        self._start = torch.tensor(starts, device=self.device)
        self._height = torch.tensor([p.shape[0] for p in parts], device=self.device)
        self._width = torch.tensor([p.shape[1] for p in parts], device=self.device)

    def drawn(self, draws: StepDraws, step: int, size: int) -> Crops:
        """The crops of a step: photograph and place of each row are drawn by the step's numbers."""
        photo = draws.integers(step, "photo", len(self.names))
        return self.at(photo, draws.uniform(step, "crop", (4,)), size)

    def counted(
        self, ids: Sequence[int] | NDArray[np.integer], size: int, *, seed: int, stream: str
    ) -> Crops:
        """Crops by counter: row i depends on (photographs, seed, stream, ids[i]) only, on every device.

        Args:
          ids: B ids; the photograph of id i is number i modulo the number of photographs.
          size: S.
        """
        index = np.asarray(ids, dtype=np.int64)
        u = rng.uniform(index, (4,), seed=seed, stream=f"training-crops/{stream}")
        photo = torch.tensor(index % len(self.names), device=self.device)
        return self.at(photo, torch.tensor(u, device=self.device), size)

    def at(self, photo: Tensor, u: Tensor, size: int) -> Crops:
        """Crops at given places.

        Args:
          photo: photograph of each crop, int64 (B,).
          u: uniform numbers, float64 (B, 4): side, top, left, mirrored if below one half.
          size: S.
        """
        height, width = self._height[photo], self._width[photo]
        largest = torch.minimum(height, width).clamp(max=MAX_CROP).double()
        smallest = largest.clamp(max=MIN_CROP)
        side = smallest * (largest / smallest) ** u[:, 0] ** 3
        lines = side[:, None] * torch.arange(size + 1, device=self.device, dtype=torch.float64) / size
        ys = (u[:, 1] * (height - side))[:, None] + lines
        xs = (u[:, 2] * (width - side))[:, None] + lines
        images = self._box_means(photo, ys, xs)
        images = torch.where((u[:, 3] < 0.5)[:, None, None, None], images.flip(-1), images)
        return Crops((images / 127.5 - 1.0).float(), photo, side)

    def _box_means(self, photo: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
        """Means over the boxes between neighbouring grid lines: ys, xs (B, S + 1) to (B, 3, S, S).

        The integral image interpolated bilinearly is the exact integral of a piecewise constant picture.
        """
        height, width = self._height[photo][:, None], self._width[photo][:, None]
        y0 = torch.minimum(ys.long(), height - 1)
        x0 = torch.minimum(xs.long(), width - 1)
        fy, fx = (ys - y0)[:, :, None, None], (xs - x0)[:, None, :, None]
        stride = width[:, :, None] + 1
        corner = self._start[photo][:, None, None] + y0[:, :, None] * stride + x0[:, None, :]
        upper = torch.lerp(self._integral[corner], self._integral[corner + 1], fx)
        lower = torch.lerp(self._integral[corner + stride], self._integral[corner + stride + 1], fx)
        sums = torch.lerp(upper, lower, fy).diff(dim=1).diff(dim=2)
        area = ys.diff(dim=1)[:, :, None] * xs.diff(dim=1)[:, None, :]
        return (sums / area[..., None]).permute(0, 3, 1, 2)


def _region(photo: Photo, region: Region) -> NDArray[np.uint8]:
    pixels = photo.pixels()
    cut = round(pixels.shape[1] * (1.0 - HELD_OUT_SHARE))
    part = {"training": pixels[:, :cut], "held-out": pixels[:, cut:], "whole": pixels}[region]
    if min(part.shape[:2]) < SMALLEST_SIDE:
        raise UsageError(
            f"photo '{photo.name}' is {pixels.shape[1]} pixels wide, and the {HELD_OUT_SHARE:.0%} held out for "
            f"measuring are fewer than {SMALLEST_SIDE}. Remove it or use a larger version."
        )
    return part


def _integral(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Sums over all pixels above and left of each corner, ((H + 1)(W + 1), 3): whole numbers, exact in float64."""
    height, width = pixels.shape[:2]
    integral = np.zeros((height + 1, width + 1, 3))
    integral[1:, 1:] = pixels.astype(np.float64).cumsum(0).cumsum(1)
    return integral.reshape(-1, 3)
