"""Latents sampled back to images."""

from __future__ import annotations

from typing import ClassVar

from taba_core.artifacts.base import Artifact, SampleSource
from taba_core.artifacts.inversion import Inversion
from taba_core.artifacts.variable import STATE, Variable
from taba_core.conventions import X0Rule


class Reconstruction(Artifact):
    """The latent of an inversion sampled back to an image; `x0_rule` is that of the sampler."""

    kind: ClassVar[str] = "reconstruction"
    image_variable: ClassVar[str] = "reconstruction"
    reads: ClassVar[tuple[str, ...]] = ("latent", "class_id", "prompt")
    stored: ClassVar[tuple[Variable, ...]] = (
        Variable("reconstruction", STATE, "1", "image sampled again from the latent"),
    )

    source: Inversion
    x0_rule: X0Rule = "none"

    @property
    def samples(self) -> SampleSource:
        """Those of the inverted images."""
        return self.source.source

    def sources(self) -> tuple[Artifact, ...]:
        """The inversion, and the images for their conditions."""
        return (self.source, self.source.source)

    def reads_of(self, source: Artifact) -> tuple[str, ...]:
        """Latent and conditions, and what the method carries beside the latent."""
        carried = tuple(source.carried) if isinstance(source, Inversion) else ()
        return (*super().reads_of(source), *carried)

    def num_evaluations(self) -> int:
        """T of the inversion, or those of the method's own sampler."""
        own = self.source.sampling_evaluations
        return self.source.num_inference_steps if own is None else own
