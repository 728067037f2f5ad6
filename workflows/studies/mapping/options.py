"""What only this study reads: the numbers of steps it compares, and the candidates of a nearest state."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from workflows.configuration.options import Options, StepCounts


class MappingOptions(Options):
    """Options of study `mapping`."""

    study = "mapping"
    flat_names: ClassVar = {"steps": "mapping_steps", "divisions": "mapping_divisions"}

    steps: StepCounts = Field(
        (10, 100), description="T that are compared beside the run's own, comma-separated"
    )
    divisions: Literal["auto", "whole", "eighths", "class"] = Field(
        "auto",
        description="candidates: whole | eighths | class | auto (class where images have one, eighths from 2048 "
        "images, else whole)",
    )
