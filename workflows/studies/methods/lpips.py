"""LPIPS of reconstructions where it was asked for; where it was not, or cannot be, the sentence that says so.

Whether it is measured is an option, `methods.lpips=on`, and the weights that measure are one file whose hash is known.
So the key of a result depends on what was asked, and is the same on every machine: a run that asks for LPIPS where
package or weights are missing is refused, and never answers with less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from taba_core.artifacts.inversion import Inversion
from taba_core.artifacts.request import Request
from taba_core.errors import UsageError
from taba_core.metrics.image_distance import ImageDistance, distance_named
from workflows.analysis.measured import distances_of
from workflows.configuration.context import Context
from workflows.studies.methods.options import MethodsOptions

if TYPE_CHECKING:
    import xarray as xr


def lpips() -> ImageDistance:
    """The distance."""
    return distance_named("lpips")


def lpips_request(context: Context, inversion: Inversion) -> Request | None:
    """The distances of an inversion's reconstructions; None where they were not asked for, or the images have none."""
    if not is_measured(context):
        return None
    artifact = distances_of(context.reconstruction(inversion), inversion.source, lpips())
    return context.request(artifact, ("distance",))


def is_measured(context: Context) -> bool:
    """Whether LPIPS was asked for, of images that have it."""
    return context.options(MethodsOptions).lpips == "on" and not unsuited(context)


def check_lpips(context: Context) -> None:
    """Refuse (UsageError) to measure LPIPS where its packages or its weights are missing."""
    if is_measured(context) and (reason := lpips().why_not()):
        raise UsageError(f"--set methods.lpips=on: {reason} Or leave LPIPS out: --set methods.lpips=off.")


def unsuited(context: Context) -> str:
    """Why a model's images have no distance; "" if they have."""
    return lpips().unsuited(context.decoded_shape or context.card.sample_shape)


def has_lpips(result: xr.Dataset) -> bool:
    """Whether a result has the distance of any row."""
    return "lpips" in result and bool(np.isfinite(result["lpips"].values).any())


def lpips_notes(result: xr.Dataset) -> tuple[str, ...]:
    """What was measured and with which weights, or why it was not."""
    if not has_lpips(result):
        of_model = str(result["lpips"].attrs.get("unsuited", "")) if "lpips" in result else ""
        return (
            f"LPIPS is not measured: {of_model or 'it was not asked for; --set methods.lpips=on measures it.'}",
        )
    (weights,) = lpips().files
    return (
        f"LPIPS v0.1 of AlexNet ({weights.name}, sha256 {result['lpips'].attrs['weights']}...), mean over images with "
        "their standard deviation; of latent models between decoded images.",
    )
