"""What is made of pictures: plain areas, and learned distances. Latents are decoded for both."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taba_core.artifacts.perceptual_distance import PerceptualDistance
from taba_core.artifacts.regions import PlainRegions
from taba_core.models import perceptual
from taba_core.stats.regions import plain_mask
from workflows.compute.batch import Arrays, Batch, computes
from workflows.compute.decoding import decoded_rgb, latent_view


@computes(PlainRegions)
def regions(batch: Batch) -> Arrays:
    """Plain areas of the images."""
    artifact: PlainRegions = batch.artifact
    if batch.card.domain == "latent":
        decoded = batch.read(artifact.source, "decoded")["decoded"]
        image = latent_view(decoded, *batch.card.sample_shape[1:])
    else:
        image = batch.read(artifact.source, "image")["image"]
    # A threshold meant for [0, 1] is twice as large on the model's [-1, 1].
    threshold = artifact.threshold * (2 if artifact.value_range == "0..1" else 1)
    return {"region": plain_mask(image, threshold).astype(np.uint8)}


@computes(PerceptualDistance)
def perceptual_distances(batch: Batch) -> Arrays:
    """LPIPS of the images and their reconstructions; of latent models of both decoded to 8-bit RGB."""
    artifact: PerceptualDistance = batch.artifact
    latent = batch.card.domain == "latent"
    shown = "decoded" if latent else "image"
    image = batch.read(artifact.samples, shown)[shown]
    back = batch.read(artifact.source, "reconstruction")["reconstruction"]
    if latent:
        back = decoded_rgb(batch.model, batch.tensor(back))
    pictures = (batch.tensor(_picture(array)) for array in (image, back))
    return {"lpips": perceptual.distances(*pictures, weights=artifact.weights).cpu().numpy()}


def _picture(array: NDArray[Any]) -> NDArray[np.float32]:
    """8-bit RGB as [-1, 1]; images of a pixel model as they are."""
    return (array / 127.5 - 1).astype(np.float32) if array.dtype == np.uint8 else array
