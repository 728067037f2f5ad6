"""Plain areas of images: sky, walls, whatever differs little from its neighbours (Section 3.1)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from taba_core.artifacts.base import Artifact, SampleSource
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.images import ImageList
from taba_core.artifacts.variable import REGION_UNWRITTEN, Variable


class PlainRegions(Artifact):
    """Mask of the plain pixels of the images.

    Of a latent model: of the decoded image, averaged over the area of each latent position (Table 3's reading;
    the paper does not state one).
    """

    kind: ClassVar[str] = "regions"
    reads: ClassVar[tuple[str, ...]] = ("image", "decoded")
    stored: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "region",
            ("sample", "y", "x"),
            "1",
            "plain region of the image",
            dtype="uint8",
            fill=REGION_UNWRITTEN,
            notes={
                "flag_values": [0, 1, REGION_UNWRITTEN],
                "flag_meanings": "not_plain plain not_written",
            },
        ),
    )

    source: Generation | ImageList
    threshold: float = Field(default=0.025, gt=0)
    value_range: Literal["-1..1", "0..1"] = "-1..1"

    @property
    def samples(self) -> SampleSource:
        """The images."""
        return self.source

    def sources(self) -> tuple[Artifact, ...]:
        """The images."""
        return (self.source,)
