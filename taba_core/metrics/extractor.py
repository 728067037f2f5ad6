"""Feature extractors: a row of numbers for each picture, whose distribution tells sets of pictures apart."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from taba_core.metrics.found import measure_named, measures
from taba_core.metrics.measure import Measure

if TYPE_CHECKING:
    from torch import Tensor


class Extractor(Measure):
    """Base of all extractors. Each is one module of `taba_core.metrics.extractors`."""

    num_features: ClassVar[int]

    @abstractmethod
    def rows(self, pictures: Tensor) -> Tensor:
        """Features of pictures, float32 (n, num_features); a row depends on its own picture only.

        Args:
          pictures: uint8 RGB, (n, 3, H, W), on the device that computes; sides of at least `least_side`.
        """


def extractors() -> dict[str, Extractor]:
    """All extractors by name."""
    return measures("taba_core.metrics.extractors", Extractor)  # type: ignore[type-abstract]


def extractor_named(name: str) -> Extractor:
    """An extractor by name. Raises UsageError for an unknown one."""
    return measure_named("feature extractor", name, extractors())
