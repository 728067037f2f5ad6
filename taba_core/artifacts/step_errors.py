"""Errors of step predictions by region, one row a sample, without the paths they come from (Figure 4)."""

from __future__ import annotations

from typing import Any, ClassVar

from taba_core.artifacts.base import Artifact, SampleSource
from taba_core.artifacts.regions import PlainRegions
from taba_core.artifacts.step_predictions import StepPredictions
from taba_core.artifacts.variable import Variable, row
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

_BY_REGION = ("sample", "step", "region")


class StepErrors(Artifact):
    """Per-sample sums of the errors of step predictions in plain and other areas.

    Equal to the rows of `taba_core.stats.step_error.StepError` over `eps_t`, `eps_hat` and `region`. They are made by
    the unit that walks the path; where the images are stored already the path is walked again, from the noise and in
    the generation's batches, so its states have the same bits.

    `guidance_scale` is that of the predictions; where the path has another, the difference is part of the error.
    """

    kind: ClassVar[str] = "step-errors"
    added_later: ClassVar[dict[str, Any]] = {"guidance_scale": UNGUIDED, "first_time": "one", "held": "auto"}
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
    first_time: FirstTime = "one"
    held: HeldQuantity = "auto"
    x0_rule: X0Rule = "none"
    guidance_scale: GuidanceScale = UNGUIDED

    @property
    def samples(self) -> SampleSource:
        """The generation whose path is walked again."""
        return self.source.source

    def sources(self) -> tuple[Artifact, ...]:
        """The generation for its images and conditions, and the plain areas."""
        return (self.source.source, self.source)

    def num_evaluations(self) -> int:
        """The path, and one prediction from each of its states: 2 T without guidance."""
        return self.samples.num_evaluations() + self._prediction_evaluations

    def saved_evaluations(self, made: frozenset[Artifact]) -> int:
        """Those of a path that was just walked, and those of predictions that were just made."""
        path = self.samples.num_evaluations() if self.samples in made else 0
        return path + (self._prediction_evaluations if self.predictions in made else 0)

    @property
    def _prediction_evaluations(self) -> int:
        return self.num_steps * evaluations_per_prediction(self.guidance_scale)

    @property
    def predictions(self) -> StepPredictions:
        """The predictions whose errors these are."""
        return StepPredictions(
            source=self.source.source,
            network_time=self.network_time,
            levels=self.levels,
            first_time=self.first_time,
            held=self.held,
            x0_rule=self.x0_rule,
            guidance_scale=self.guidance_scale,
        )
