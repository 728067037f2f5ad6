"""What only this study reads: which edits are made, and by what they are measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from taba_core.stats.preservation import Preset
from workflows.configuration.options import Options, listed

NO_EDITOR = "none"
MeasureName = Literal["structure", "mse", "psnr", "ssim", "lpips", "clip-whole", "clip-edited"]


class PieBenchOptions(Options):
    """Options of study `pie-bench`."""

    study = "pie-bench"

    methods: Annotated[tuple[str, ...], listed("inversion method, e.g. ddim")] = Field(
        ("ddim", "direct-inversion"), description="inversion methods in front of the editors, comma-separated"
    )
    editors: Annotated[tuple[str, ...], listed("editor, e.g. masactrl")] = Field(
        (NO_EDITOR, "sdedit"),
        description="editors (see taba list), comma-separated; none is the sampler alone, sdedit takes no inversion",
    )
    guidance_scale: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="w of the edits (default: 7.5 of Stable Diffusion, 3 of others, 1 where none is possible)",
    )
    source_path: Literal["default", "pinned", "own"] = Field(
        "default",
        description="way of the sources of editors with attention: pinned to the inversion, their own, or pinned where "
        "the method allows it",
    )
    preset: Preset = Field(
        "pie",
        description="pie: background errors as the benchmark's code takes them; clean: over the background alone",
    )
    measures: Annotated[tuple[MeasureName, ...], listed("measure, e.g. mse")] = Field(
        ("mse", "psnr", "ssim"),
        description="measures, comma-separated; structure, lpips, clip-whole and clip-edited need weights (taba fetch "
        "metrics)",
    )
