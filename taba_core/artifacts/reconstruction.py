"""Latents sampled back to images."""

from __future__ import annotations

from typing import Any, ClassVar

from taba_core.artifacts.base import Artifact, SampleSource
from taba_core.artifacts.inversion import Inversion
from taba_core.artifacts.variable import STATE, Variable
from taba_core.conventions import UNGUIDED, GuidanceScale, X0Rule, evaluations_per_prediction
from taba_core.model_spec import ModelSpec


class Reconstruction(Artifact):
    """The latent of an inversion sampled back to an image.

    `x0_rule` and `guidance_scale` are those of the sampler, as of the images that were generated, and not of the
    inversion: at w = 1 upwards and another w downwards DDIM does not come back. A method that guides its own sampler
    (null-text, negative prompt) has that scale among its options, and 1 here.
    """

    kind: ClassVar[str] = "reconstruction"
    image_variable: ClassVar[str] = "reconstruction"
    added_later: ClassVar[dict[str, Any]] = {"guidance_scale": UNGUIDED}
    reads: ClassVar[tuple[str, ...]] = ("latent", "class_id", "prompt")
    stored: ClassVar[tuple[Variable, ...]] = (
        Variable("reconstruction", STATE, "1", "image sampled again from the latent"),
    )

    source: Inversion
    x0_rule: X0Rule = "none"
    guidance_scale: GuidanceScale = UNGUIDED

    @property
    def samples(self) -> SampleSource:
        """Those of the inverted images."""
        return self.source.source

    @property
    def predictor(self) -> ModelSpec:
        """The network that inverted samples back."""
        return self.source.predictor

    def sources(self) -> tuple[Artifact, ...]:
        """The inversion, and the images for their conditions."""
        return (self.source, self.source.source)

    def reads_of(self, source: Artifact) -> tuple[str, ...]:
        """Latent and conditions, and what the method carries beside the latent."""
        carried = tuple(source.carried) if isinstance(source, Inversion) else ()
        return (*super().reads_of(source), *carried)

    def num_evaluations(self) -> int:
        """T of the inversion, or those of the method's own sampler; twice that under guidance."""
        own = self.source.sampling_evaluations
        steps = self.source.num_inference_steps if own is None else own
        return steps * evaluations_per_prediction(self.guidance_scale)
