"""Inversion's noise predictions from the exact states of the sampling path (Appendix J)."""

from __future__ import annotations

from typing import ClassVar

from taba_core.artifacts.base import Artifact, SampleSource
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.variable import NOISE_UNITS, PATH, Variable
from taba_core.conventions import Levels, NetworkTime, X0Rule


class StepPredictions(Artifact):
    """eps_hat[l] = eps(x_{l-1}, .) from every state of the path: T evaluations an image, no inversion is restarted."""

    kind: ClassVar[str] = "step-predictions"
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
    x0_rule: X0Rule = "none"

    @property
    def samples(self) -> SampleSource:
        """The generation whose path is used."""
        return self.source

    def sources(self) -> tuple[Artifact, ...]:
        """The generation."""
        return (self.source,)

    def num_evaluations(self) -> int:
        """2 T: the path, and one prediction from each of its states."""
        return 2 * self.source.num_inference_steps

    def saved_evaluations(self, made: frozenset[Artifact]) -> int:
        """T for a path that was just walked."""
        return self.source.num_inference_steps if self.source in made else 0
