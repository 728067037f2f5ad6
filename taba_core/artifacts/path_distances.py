"""Distances of the sampling path to the segment from noise to latent, one row a sample (Figure 3)."""

from __future__ import annotations

from typing import ClassVar

from taba_core.artifacts.base import Artifact, SampleSource
from taba_core.artifacts.inversion import Inversion
from taba_core.artifacts.variable import Variable, row


class PathDistances(Artifact):
    """Per-sample inner products that give the distance of the sampling path to the segment from noise to latent.

    Equal to the rows of `taba_core.stats.trajectory.PathDistance` over `noise`, `latent`, `x_t` and `image`; they
    are made by the unit that walks the path, as `StepErrors` are. Rows by level: the image is level 0, x_t of step l
    is level l.
    """

    kind: ClassVar[str] = "path-distances"
    reads: ClassVar[tuple[str, ...]] = ("noise", "image", "latent", "class_id", "prompt")
    paths_in_memory: ClassVar[int] = 1  # x_t
    stored: ClassVar[tuple[Variable, ...]] = (
        row("a", ("sample", "level"), "||x_t - x_T||^2"),
        row("b", ("sample", "level"), "<x_t - x_T, latent - x_T>"),
        row("c", ("sample",), "||latent - x_T||^2"),
    )

    source: Inversion

    @property
    def samples(self) -> SampleSource:
        """The generation whose path is walked again."""
        return self.source.source

    def sources(self) -> tuple[Artifact, ...]:
        """The generation, whose levels the rows have, and the inversion."""
        return (self.source.source, self.source)

    def num_evaluations(self) -> int:
        """Those of the sampling path."""
        return self.samples.num_evaluations()

    def saved_evaluations(self, made: frozenset[Artifact]) -> int:
        """Those of a path that was just walked."""
        return self.samples.num_evaluations() if self.samples in made else 0
