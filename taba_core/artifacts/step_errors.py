"""Errors of step predictions by region, one row a sample, without the paths they come from (Figure 4)."""

from __future__ import annotations

from typing import ClassVar

from taba_core.artifacts.base import Artifact, SampleSource
from taba_core.artifacts.regions import PlainRegions
from taba_core.artifacts.step_predictions import StepPredictions
from taba_core.artifacts.variable import Variable, row
from taba_core.conventions import Levels, NetworkTime, X0Rule

_BY_REGION = ("sample", "step", "region")


class StepErrors(Artifact):
    """Per-sample sums of the errors of step predictions in plain and other areas.

    Equal to the rows of `taba_core.stats.step_error.StepError` over `eps_t`, `eps_hat` and `region`. They are made by
    the unit that walks the path; where the images are stored already the path is walked again, from the noise and in
    the generation's batches, so its states have the same bits.
    """

    kind: ClassVar[str] = "step-errors"
    reads: ClassVar[tuple[str, ...]] = ("image", "class_id", "prompt", "region")
    paths_in_memory: ClassVar[int] = 3  # x_t, eps_t and eps_hat
    stored: ClassVar[tuple[Variable, ...]] = (
        row("entries", ("sample", "region"), "entries of the region, channels included"),
        row("error", _BY_REGION, "sum of |eps_t - eps_hat| over the region"),
        row("magnitude", _BY_REGION, "sum of |eps_t| over the region"),
        row("u", _BY_REGION, "sum of eps_t over the region"),
        row("uu", _BY_REGION, "sum of eps_t^2 over the region"),
        row("v", _BY_REGION, "sum of eps_hat over the region"),
        row("vv", _BY_REGION, "sum of eps_hat^2 over the region"),
    )

    source: PlainRegions
    network_time: NetworkTime = "target"
    levels: Levels = "exact"
    x0_rule: X0Rule = "none"

    @property
    def samples(self) -> SampleSource:
        """The generation whose path is walked again."""
        return self.source.source

    def sources(self) -> tuple[Artifact, ...]:
        """The generation for its images and conditions, and the plain areas."""
        return (self.source.source, self.source)

    def num_evaluations(self) -> int:
        """2 T: the path, and one prediction from each of its states."""
        return 2 * self.num_steps

    def saved_evaluations(self, made: frozenset[Artifact]) -> int:
        """T for a path that was just walked, T for predictions that were just made."""
        return self.num_steps * ((self.samples in made) + (self.predictions in made))

    @property
    def predictions(self) -> StepPredictions:
        """The predictions whose errors these are."""
        return StepPredictions(
            source=self.source.source,
            network_time=self.network_time,
            levels=self.levels,
            x0_rule=self.x0_rule,
        )
