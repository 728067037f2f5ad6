"""Distances of two images: one number for each pair."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from taba_core.errors import UsageError
from taba_core.metrics.found import measure_named, measures
from taba_core.metrics.measure import Measure

if TYPE_CHECKING:
    from torch import Tensor


class ImageDistance(Measure):
    """Base of all distances. Each is one module of `taba_core.metrics.distances`."""

    @abstractmethod
    def pairs(self, reference: Tensor, estimate: Tensor) -> Tensor:
        """Distances of pairs, float32 (n,); a pair's distance depends on that pair only.

        Args:
          reference, estimate: (n, 3, H, W) in [-1, 1]; what lies outside is clipped, as on a screen.
        """

    def of(self, reference: Tensor, estimate: Tensor) -> Tensor:
        """Distances of pairs of images, float32 (n,), after checking them; see `pairs`.

        Raises:
          UsageError: images of other shapes than it suits, or what it needs is missing here.
        """
        if (
            reference.shape != estimate.shape
            or reference.ndim != 4
            or self.unsuited(tuple(reference.shape[1:]))
        ):
            shapes = " and ".join(str(tuple(images.shape)) for images in (reference, estimate))
            sides = f" with sides of at least {self.least_side}" if self.least_side > 1 else ""
            raise UsageError(f"{self.title} of images {shapes}: give both in one shape (n, 3, H, W){sides}.")
        self.check()
        return self.pairs(reference.float().clamp(-1, 1), estimate.float().clamp(-1, 1))


def distances() -> dict[str, ImageDistance]:
    """All image distances by name."""
    return measures("taba_core.metrics.distances", ImageDistance)  # type: ignore[type-abstract]


def distance_named(name: str) -> ImageDistance:
    """An image distance by name. Raises UsageError for an unknown one."""
    return measure_named("image distance", name, distances())
