"""How probable each class of a model is for an image, where the model says so exactly."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from taba_core.artifacts.measured import Measured
from taba_core.artifacts.variable import Variable, row


class ClassPosterior(Measured):
    """P(class | x_t) of images that are noised again, x_t = sqrt(a) x + sqrt(1 - a) e, averaged over draws of e.

    Of a clean image only its finest texture decides; at the level of `timestep` what the eye sees does. Draw k of a
    sample belongs to (k, sample id), so it is the same noise for every image of that sample.
    """

    kind: ClassVar[str] = "class-posterior"
    stored: ClassVar[tuple[Variable, ...]] = (
        row("probability", ("sample", "class"), "mean over draws of the probability of the class"),
    )

    num_classes: int = Field(ge=2)
    timestep: int = Field(default=400, ge=0)
    num_draws: int = Field(default=4, ge=1)

    def sizes(self, variable: str) -> dict[str, int]:
        """The number of classes."""
        return {"class": self.num_classes}

    def num_evaluations(self) -> int:
        """One for each draw: a posterior takes what a prediction takes."""
        return self.num_draws
