"""Distances between images, pair by pair."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, SerializeAsAny

from taba_core.artifacts.base import Artifact
from taba_core.artifacts.measured import Measured
from taba_core.artifacts.variable import Variable


class Distances(Measured):
    """Distance of image i of the source and image i of the reference, as pictures in [-1, 1].

    A kind of its own: the network that measures is none of the model's, and may come long after the images.
    """

    kind: ClassVar[str] = "distances"
    measured: ClassVar[tuple[str, ...]] = ("source", "reference")
    stored: ClassVar[tuple[Variable, ...]] = (
        Variable("distance", ("sample",), "1", "distance of the image and its reference"),
    )

    reference: SerializeAsAny[Artifact]
    reference_kind: str = ""
    metric: str
    fingerprint: str = Field(description="version and weights of the metric")
