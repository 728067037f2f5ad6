"""Options of study `interpolation`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from workflows.configuration.options import Options, ReplacedSteps, listed
from workflows.configuration.settings import MAX_SEED


class InterpolationOptions(Options):
    """Options of study `interpolation`."""

    study = "interpolation"

    points: int = Field(
        7, ge=3, description="points of the path, both ends included: an odd number, so that one is .5"
    )
    second_seed: int = Field(
        0, ge=0, le=MAX_SEED, description="seed of the noise at the second end (the first: seed)"
    )
    second_forward_seed: int = Field(
        21, ge=0, le=MAX_SEED, description="seed of the noise of forward replacement at the second end"
    )
    forward_steps: ReplacedSteps = Field(
        ("4%",), description="K of the repaired latents: counts or percentages of T, comma-separated"
    )
    by_row: bool = Field(
        False,
        description="one angle for every row of a state, as the reference code has it, not one for the whole state",
    )
    reference: str | None = Field(
        None,
        min_length=1,
        description="folder of real images to compare with (default: crops of the photographs that the model was made "
        "from, and where these are not here as many other samples)",
    )
    extractors: Annotated[tuple[str, ...], listed("extractor, e.g. pca-64")] = Field(
        ("pca-64", "random-convolutions", "crop-classifier"),
        description="feature extractors, comma-separated (see taba list)",
    )
    examples: int = Field(
        3, ge=1, description="pairs whose paths are shown as pictures, the first by their ids"
    )

    @field_validator("points")
    @classmethod
    def _has_a_middle(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(
                f"{value} points have none in the middle; use an odd number, such as {value + 1}"
            )
        return value
