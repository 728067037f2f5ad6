"""What only this study reads: which rows it compares, and what it measures of them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from workflows.configuration.options import Options, listed


class MethodsOptions(Options):
    """Options of study `methods`."""

    study = "methods"
    flat_names: ClassVar = {"rows": "methods", "arc_samples": "arc_samples", "lpips": "lpips"}

    rows: Annotated[tuple[str, ...], listed("row, e.g. ddim,noise-initialised")] = Field(
        ("all",),
        description="rows to compare: all (those made for flows on flows) | table7 | names of rows or methods, "
        "comma-separated",
    )
    arc_samples: int = Field(
        128, ge=2, description="first samples of which the self-interpolation curves are made"
    )
    lpips: Literal["on", "off"] = Field(
        "off", description="measure LPIPS, which needs extra metrics and AlexNet's weights: on | off"
    )
    edits: Literal["auto", "on", "off"] = Field(
        "auto",
        description="measure edits from every method's latents: on | off | auto (of models without a network that read "
        "a class, where they take about as long as inversion and reconstruction)",
    )
    clip: Literal["on", "off"] = Field(
        "off", description="judge its edits by CLIP-T and CLIPScore too, which needs CLIP's weights: on | off"
    )
