"""LPIPS of reconstructions where it can be computed; where it cannot, the sentence that says why."""

from __future__ import annotations

import numpy as np
import xarray as xr

from taba_core.artifacts.inversion import Inversion
from taba_core.artifacts.perceptual_distance import PerceptualDistance
from taba_core.artifacts.request import Request
from taba_core.models import perceptual
from workflows.configuration.context import Context

WHY_NOT = "lpips_why_not"  # attribute of a result without it


def lpips_request(context: Context, inversion: Inversion) -> Request | None:
    """The distances of an inversion's reconstructions; None where they cannot be."""
    if unsuited(context) or perceptual.why_not():
        return None
    artifact = PerceptualDistance(source=context.reconstruction(inversion), weights=perceptual.fingerprint())
    return context.request(artifact, ("lpips",))


def unsuited(context: Context) -> str:
    """Why a model's images have no distance; "" if they have."""
    shape = context.decoded_shape or context.card.sample_shape
    if perceptual.suits(shape):
        return ""
    return (
        f"it takes RGB images with sides of at least {perceptual.LEAST_SIDE}, and this model's are "
        f"{'x'.join(str(size) for size in shape)}."
    )


def with_why_not(result: xr.Dataset) -> xr.Dataset:
    """The result with what keeps LPIPS from being computed here and now, if it has none."""
    if has_lpips(result):
        return result
    of_model = str(result["lpips"].attrs.get("unsuited", "")) if "lpips" in result else ""
    reason = of_model or perceptual.why_not() or "what it needs is here by now: run the study again."
    return result.assign_attrs({WHY_NOT: reason})


def has_lpips(result: xr.Dataset) -> bool:
    """Whether a result has the distance of any row."""
    return "lpips" in result and bool(np.isfinite(result["lpips"].values).any())


def lpips_notes(result: xr.Dataset) -> tuple[str, ...]:
    """What was measured and with which weights, or why it was not."""
    if not has_lpips(result):
        return (f"LPIPS is not measured: {result.attrs.get(WHY_NOT, 'this result was made without it.')}",)
    weights = result["lpips"].attrs["weights"]
    return (
        f"LPIPS v0.1 of AlexNet ({perceptual.WEIGHTS_NAME}, sha256 {weights}...), mean over images with their "
        "standard deviation; of latent models between decoded images.",
    )
