"""Features of images: a row of numbers for each, by which sets of images are compared."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from taba_core.artifacts.measured import Measured
from taba_core.artifacts.variable import Variable


class Features(Measured):
    """Rows that an extractor gives of images as 8-bit RGB; of latent models of the decoded images."""

    kind: ClassVar[str] = "features"
    stored: ClassVar[tuple[Variable, ...]] = (
        Variable("features", ("sample", "feature"), "1", "features of the image"),
    )

    extractor: str
    fingerprint: str = Field(description="version and weights of the extractor")
    num_features: int = Field(ge=1)

    def sizes(self, variable: str) -> dict[str, int]:
        """The number of features."""
        return {"feature": self.num_features}
