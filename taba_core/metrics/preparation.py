"""How pictures are brought to what a network was trained on: resized and cropped by Pillow as 8-bit, then scaled.

Pillow's filters take the mean over what a pixel covers when they shrink, as the networks' own preprocessing does, and
its result does not depend on what else is installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Scale = tuple[tuple[float, ...], tuple[float, ...]]
# Means and standard deviations of the channels of images in [0, 1].
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def to_pictures(images: Tensor) -> Tensor:
    """Images in [-1, 1] as 8-bit RGB, uint8 of the same shape: rounded, and clipped as on a screen."""
    import torch

    return ((images + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


def scaled(images: Tensor, scale: Scale) -> Tensor:
    """(x - mean) / std by channel, of images (n, 3, H, W) in [0, 1]."""
    import torch

    mean, std = (torch.tensor(row, device=images.device).view(3, 1, 1) for row in scale)
    return (images - mean) / std


def _as_numbers(squares: NDArray[np.uint8], pictures: Tensor) -> Tensor:
    """Squares (n, side, side, 3) as float32 (n, 3, side, side) in [0, 1], on the device of the pictures."""
    import torch

    return torch.as_tensor(squares, device=pictures.device).permute(0, 3, 1, 2).float() / 255


@dataclass(frozen=True)
class Squash:
    """Both sides to `side` pixels (bicubic), whatever the aspect was.

    Attributes:
      side: pixels of a side of the square.
    """

    side: int

    def __call__(self, pictures: Tensor) -> Tensor:
        """Pictures, uint8 RGB (n, 3, H, W), as float32 (n, 3, side, side) in [0, 1] on their device."""
        from PIL import Image

        size, rows = (self.side, self.side), pictures.permute(0, 2, 3, 1).cpu().numpy()
        resized = [Image.fromarray(row).resize(size, Image.Resampling.BICUBIC) for row in rows]
        return _as_numbers(np.stack([np.asarray(one) for one in resized]), pictures)


@dataclass(frozen=True)
class Preparation:
    """The shorter side to `shorter` pixels (bicubic), the central square of `side` pixels, (x - mean) / std.

    Attributes:
      shorter: pixels of the shorter side after resizing; the longer keeps the aspect, rounded down.
      side: pixels of a side of the square.
      scale: means and standard deviations of the channels.
    """

    shorter: int
    side: int
    scale: Scale

    def __call__(self, pictures: Tensor) -> Tensor:
        """Pictures, uint8 RGB (n, 3, H, W), as float32 (n, 3, side, side) on their device."""
        squares = np.stack([self._square(picture) for picture in pictures.permute(0, 2, 3, 1).cpu().numpy()])
        return scaled(_as_numbers(squares, pictures), self.scale)

    def _square(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """One picture (H, W, 3), resized and cropped: uint8 (side, side, 3)."""
        from PIL import Image

        height, width = picture.shape[:2]
        short, long = min(height, width), max(height, width)
        size = (self.shorter, int(self.shorter * long / short))  # height, width of an upright short side
        rows, columns = size if height <= width else size[::-1]
        resized = Image.fromarray(picture).resize((columns, rows), Image.Resampling.BICUBIC)
        top, left = (rows - self.side) // 2, (columns - self.side) // 2
        return np.asarray(resized)[top : top + self.side, left : left + self.side]
