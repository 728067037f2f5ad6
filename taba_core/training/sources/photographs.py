"""Random crops of photographs: those that come with scikit-image and scikit-learn, or a folder of one's own.

The right 15 % of every photograph are held out. Every other crop on average is mirrored left to right.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import torch

from taba_core.models.photos import content_of, load_photos
from taba_core.training.crops import CropSource
from taba_core.training.data import PHOTOGRAPHS, data_source


class Photographs:
    """Crops of photographs as a source.

    Args:
      path: "builtin" or a folder.
    Raises:
      UsageError: the folder is missing or holds no image.
    """

    name, image_size = PHOTOGRAPHS, None

    def __init__(self, path: str = "builtin") -> None:
        self.photos = load_photos(path)
        self.names = tuple(photo.name for photo in self.photos)

    @cached_property
    def fingerprint(self) -> str:
        """24 hex digits over names, shapes and pixels. Raises UsageError for a file that is no picture."""
        return content_of(self.photos).fingerprint

    def part(
        self, region: Literal["training", "held-out"], *, device: str | torch.device = "cpu"
    ) -> CropSource:
        """Crops of the left 85 % or of the right 15 %. Raises UsageError for a photograph that is too narrow."""
        return CropSource(self.photos, region, device=device)

    def facts(self) -> dict[str, Any]:
        """Names and fingerprint."""
        return {"photos": list(self.names), "photos_fingerprint": self.fingerprint}


@data_source(PHOTOGRAPHS)
def open_photographs(path: str | None) -> Photographs:
    """The photographs of a folder, or the embedded ones. Raises UsageError as `Photographs`."""
    return Photographs(path or "builtin")
