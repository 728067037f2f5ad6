"""What only this study reads: when the condition is exchanged, how many variants there are, and by what they differ."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from workflows.configuration.options import Options, listed

DEFAULT_SHARE = "4%"  # of T steps, the nearest whole one


def _shares_of_steps(value: tuple[float, ...]) -> tuple[float, ...]:
    if bad := [share for share in value if not 0 <= share < 1]:
        raise ValueError(
            f"{bad[0]:g} is no share of the steps after which others follow; use 0 or more, below 1"
        )
    return tuple(dict.fromkeys(value))


class StochasticEditsOptions(Options):
    """Options of study `stochastic-edits`."""

    study = "stochastic-edits"

    switch_share: Annotated[
        tuple[float, ...], listed("share, e.g. 0,.2,.4"), AfterValidator(_shares_of_steps)
    ] = Field(
        (0.2,),
        description="leading shares of the sampling steps under the photograph's own condition, before the target's, "
        "comma-separated",
    )
    seeds: int = Field(4, ge=2, description="r, forward noises that each latent is repaired with")
    forward_steps: str = Field(
        DEFAULT_SHARE, min_length=1, description="K of the repaired latents: a count or a percentage of T"
    )
    distances: Annotated[tuple[str, ...], listed("image distance, e.g. random-lpips")] = Field(
        ("random-lpips", "ssim"),
        description="image distances beside the mean absolute difference, comma-separated (see taba list)",
    )
    guidance_scale: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="w of the edits (default: that of the images)"
    )
    examples: int = Field(6, ge=1, description="photographs whose variants are shown, the first by their ids")
    clip: Literal["on", "off"] = Field(
        "off", description="judge edits by CLIP-T and CLIPScore too, which needs CLIP's weights: on | off"
    )
