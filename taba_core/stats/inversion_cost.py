"""What an inversion cost, how well it solved its steps, and whether its latents are noise one can walk to (Table 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from taba_core.stats.base import Array, Block, RowStatistic, as_float64, over, ratio
from taba_core.stats.inputs import ANY, Input, number


@dataclass(frozen=True)
class InversionCost(RowStatistic):
    """Network evaluations, residuals and fallbacks of inversions, as `invert_with_report` counted them.

    Values: evaluations, mean over images; residual, root mean square over images and steps of
    rms(P x_{l-1} + Q eps(x_l) - x_l), a negative entry being none; residual_by_step (T,); fallback_steps, share of
    image-steps in which a guard acted; fallback_images, share of images in which it did at least once.
    """

    evaluations: str = "evaluations"
    residual: str = "residual"
    fallback: str = "fallback"

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Evaluations (n,), residuals (n, T) and fallback codes (n, T)."""
        of_steps = ("step",)
        return (
            number(self.evaluations),
            Input(self.residual, "the residuals of every step", of_steps),
            Input(self.fallback, "the fallback codes of every step", of_steps, values="number"),
        )

    def rows(self, block: Block) -> dict[str, Array]:
        """Squares of the residuals there are, how many, and whether a guard acted."""
        residual, acted = as_float64(block[self.residual]), np.asarray(block[self.fallback]) > 0
        known = residual >= 0
        return {
            "evaluations": block[self.evaluations],
            "square": np.where(known, np.square(residual), 0.0),
            "known": known,
            "acted": acted.mean(axis=1),
            "any": acted.any(axis=1),
        }

    def summarise_sums(self, sums: Mapping[str, Array], count: Array) -> dict[str, Array]:
        """Average; NaN where no residual is known."""
        known, square = sums["known"], sums["square"]
        return {
            "evaluations": ratio(sums["evaluations"], count),
            "residual": np.sqrt(ratio(square.sum(axis=-1), known.sum(axis=-1))),
            "residual_by_step": np.sqrt(ratio(square, known)),
            "fallback_steps": ratio(sums["acted"], count),
            "fallback_images": ratio(sums["any"], count),
        }


@dataclass(frozen=True)
class InterpolationCurve(RowStatistic):
    """Distance to the image along the arc from its true noise to a latent (self-interpolation test, L weights).

    A latent that is its noise, or lies in the same basin, gives a flat curve at 0; one that only reconstructs comes
    back down at its end: the curve bulges in between.

    Values: distance (L,), mean over images; largest, the highest point of that curve; bulge = largest - the higher
    of both ends, at least 0.
    """

    variable: str = "distance"

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Distances (n, L), from the noise (first) to the latent (last)."""
        return (Input(self.variable, "distances along the arc", (ANY,)),)

    def rows(self, block: Block) -> dict[str, Array]:
        """As they are."""
        return {"distance": block[self.variable]}

    def summarise_sums(self, sums: Mapping[str, Array], count: Array) -> dict[str, Array]:
        """Average over images, then find the highest point."""
        distance = ratio(sums["distance"], over(count, sums["distance"]))
        largest = distance.max(axis=-1)
        ends = np.maximum(distance[..., 0], distance[..., -1])
        return {"distance": distance, "largest": largest, "bulge": largest - ends}
