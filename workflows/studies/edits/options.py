"""What only this study reads: where its edits start, and by what it measures them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from workflows.configuration.options import Options, ReplacedSteps, listed

NO_METHODS = "none"


class EditsOptions(Options):
    """Options of study `edits`."""

    study = "edits"

    forward_steps: ReplacedSteps = Field(
        ("2%", "4%", "6%", "10%", "20%"),
        description="K of the repaired latents: counts or percentages of T, comma-separated",
    )
    methods: Annotated[tuple[str, ...], listed("inversion method, e.g. predictor-corrector")] = Field(
        (NO_METHODS,),
        description="other inversion methods whose latents are edited too, comma-separated, or none",
    )
    flow_edit: str = Field(
        NO_METHODS,
        description="lowest steps over which FlowEdit leads the images of a flow: a count, a percentage of T, or none",
    )
    distances: Annotated[tuple[str, ...], listed("image distance, e.g. random-lpips")] = Field(
        ("random-lpips",),
        description="distances of edits from their sources, comma-separated (see taba list)",
    )
    extractor: str = Field(
        "crop-classifier",
        description="features whose cosine says how alike an edit and its source are (see taba list)",
    )
    guidance_scale: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="w of the edits (default: that of the images)"
    )
    clip: Literal["on", "off"] = Field(
        "off", description="judge edits by CLIP-T and CLIPScore too, which needs CLIP's weights: on | off"
    )
