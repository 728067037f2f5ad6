"""Inversion's noise predictions from the exact states of the sampling path (Appendix J)."""

from __future__ import annotations

from typing import Any, ClassVar

from taba_core.artifacts.base import Artifact, SampleSource
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.variable import NOISE_UNITS, PATH, Variable
from taba_core.conventions import (
    UNGUIDED,
    FirstTime,
    GuidanceScale,
    HeldQuantity,
    Levels,
    NetworkTime,
    X0Rule,
    evaluations_per_prediction,
)


class StepPredictions(Artifact):
    """eps_hat[l] = eps(x_{l-1}, .) from every state of the path: T predictions an image, no inversion is restarted.

    The states are of the generation's path, at its guidance scale; the predictions are the inversion's, at the
    `guidance_scale` of this spec.
    """

    kind: ClassVar[str] = "step-predictions"
    added_later: ClassVar[dict[str, Any]] = {"guidance_scale": UNGUIDED, "first_time": "one", "held": "auto"}
    reads: ClassVar[tuple[str, ...]] = ("image", "class_id", "prompt")
    paths_in_memory: ClassVar[int] = 1  # x_t
    stored: ClassVar[tuple[Variable, ...]] = (
        Variable(
            "eps_hat",
            PATH,
            NOISE_UNITS,
            "inversion's noise prediction from the exact cached state one level below",
        ),
    )

    source: Generation
    network_time: NetworkTime = "target"
    levels: Levels = "exact"
    first_time: FirstTime = "one"
    held: HeldQuantity = "auto"
    x0_rule: X0Rule = "none"
    guidance_scale: GuidanceScale = UNGUIDED

    @property
    def samples(self) -> SampleSource:
        """The generation whose path is used."""
        return self.source

    def sources(self) -> tuple[Artifact, ...]:
        """The generation."""
        return (self.source,)

    def num_evaluations(self) -> int:
        """The path, and one prediction from each of its T states: 2 T without guidance."""
        predictions = self.num_steps * evaluations_per_prediction(self.guidance_scale)
        return self.source.num_evaluations() + predictions

    def saved_evaluations(self, made: frozenset[Artifact]) -> int:
        """Those of a path that was just walked."""
        return self.source.num_evaluations() if self.source in made else 0
