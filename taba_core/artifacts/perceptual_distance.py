"""Learned distances between images and their reconstructions."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from taba_core.artifacts.base import Artifact, SampleSource
from taba_core.artifacts.reconstruction import Reconstruction
from taba_core.artifacts.variable import Variable


class PerceptualDistance(Artifact):
    """LPIPS of each image and what was sampled again from its latent: the pictures of both, in [-1, 1].

    A kind of its own: the network that measures is none of the model's, and may come long after the images.
    """

    kind: ClassVar[str] = "perceptual-distance"
    reads: ClassVar[tuple[str, ...]] = ("image", "decoded", "reconstruction")
    stored: ClassVar[tuple[Variable, ...]] = (
        Variable("lpips", ("sample",), "1", "LPIPS v0.1 (AlexNet) of the image and its reconstruction"),
    )

    source: Reconstruction
    weights: str = Field(description="fingerprint of the weights of the network that measures")

    @property
    def samples(self) -> SampleSource:
        """Those of the inverted images."""
        return self.source.samples

    def sources(self) -> tuple[Artifact, ...]:
        """The reconstruction, and the images."""
        return (self.source, self.samples)
