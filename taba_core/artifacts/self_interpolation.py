"""What the sampler makes of the arc from noise to latent (Table 7's last column)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from taba_core.artifacts.base import Artifact, SampleSource
from taba_core.artifacts.inversion import Inversion
from taba_core.artifacts.variable import Variable, row


class SelfInterpolation(Artifact):
    """Distances to each image of what the sampler makes of slerp(x_T, x̂_T; c), c = 0, ..., 1 in equal steps.

    The sampler is the generation's, with its x_0 rule and guidance scale, so that c = 0 gives the image itself.
    """

    kind: ClassVar[str] = "self-interpolation"
    reads: ClassVar[tuple[str, ...]] = ("noise", "image", "latent", "class_id", "prompt")
    stored: ClassVar[tuple[Variable, ...]] = (
        row(
            "distance",
            ("sample", "weight"),
            "mean |difference| to the image of what slerp(x_T, latent; c) gives",
        ),
    )

    source: Inversion
    num_weights: int = Field(default=11, ge=2, description="points c of the arc, both ends included")

    @property
    def samples(self) -> SampleSource:
        """The generation of the inverted images."""
        return self.source.source

    def sources(self) -> tuple[Artifact, ...]:
        """The generation, for its noise and images, and the inversion."""
        return (self.source.source, self.source)

    def sizes(self, variable: str) -> dict[str, int]:
        """The number of points of the arc."""
        return {"weight": self.num_weights}

    def num_evaluations(self) -> int:
        """Those of the images, at every c."""
        return self.num_weights * self.samples.num_evaluations()
