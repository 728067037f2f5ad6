"""What is made of pictures: plain areas, features and distances. Latents are decoded for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taba_core import rng
from taba_core.artifacts.base import Artifact
from taba_core.artifacts.class_posterior import ClassPosterior
from taba_core.artifacts.crops import Crops
from taba_core.artifacts.decoded import Decoded
from taba_core.artifacts.distances import Distances
from taba_core.artifacts.features import Features
from taba_core.artifacts.regions import PlainRegions
from taba_core.artifacts.variable import UNCONDITIONAL
from taba_core.metrics.extractor import extractor_named
from taba_core.metrics.image_distance import distance_named
from taba_core.models.crops import photos_of_crops, real_crops
from taba_core.models.photos import Photo, load_photos
from taba_core.stats.compressibility import to_bytes
from taba_core.stats.regions import plain_mask
from taba_core.training.captions import captions_of_crops
from workflows.compute.batch import Arrays, Batch, computes
from workflows.compute.conditioning import prompts_to_bytes
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


@computes(Crops)
def crops(batch: Batch) -> Arrays:
    """Crops of photographs: as pictures for a latent model, else as images of the model's channels.

    With a condition also its class or caption, and for a latent model the encoder's mean of the pictures.
    """
    artifact: Crops = batch.artifact
    photos = load_photos(artifact.location)
    made = real_crops(photos, batch.ids, seed=artifact.seed, size=batch.card.image_size)
    conditions = _conditions_of_crops(artifact, photos, batch.ids)
    if batch.card.domain == "pixel":
        return {"image": made, **conditions}
    rgb = to_bytes(made)
    if artifact.conditioning == "none":
        return {"decoded": rgb}
    encoded = batch.model.codec.encode(batch.tensor(_in_unit_range(rgb)), "mean")
    return {"decoded": rgb, "image": encoded.float().cpu().numpy(), **conditions}


def _conditions_of_crops(artifact: Crops, photos: Sequence[Photo], ids: NDArray[np.int64]) -> Arrays:
    """The class (number of the photograph) or the caption of crops; {} of crops without a condition."""
    if artifact.conditioning == "class":
        return {"class_id": photos_of_crops(len(photos), ids, seed=artifact.seed).astype(np.int32)}
    if artifact.conditioning == "prompt":
        captions = captions_of_crops(photos, ids, seed=artifact.seed)
        unconditional = np.full(len(ids), UNCONDITIONAL, dtype=np.int32)
        return {"class_id": unconditional, "prompt": prompts_to_bytes(captions)}
    return {}


@computes(Decoded)
def decoded(batch: Batch) -> Arrays:
    """Pictures of the images, 8-bit RGB."""
    return {"decoded": _pictures(batch, batch.artifact.source)}


@computes(Features)
def features(batch: Batch) -> Arrays:
    """Rows of the extractor, of images as 8-bit RGB."""
    artifact: Features = batch.artifact
    pictures = batch.tensor(to_bytes(_pictures(batch, artifact.source)))
    return {"features": extractor_named(artifact.extractor).rows(pictures).cpu().numpy()}


@computes(Distances)
def distances(batch: Batch) -> Arrays:
    """Distances of images and their references, in [-1, 1]."""
    artifact: Distances = batch.artifact
    pairs = (
        batch.tensor(_in_unit_range(_pictures(batch, of))) for of in (artifact.reference, artifact.source)
    )
    return {"distance": distance_named(artifact.metric).of(*pairs).cpu().numpy()}


@computes(ClassPosterior)
def class_posterior(batch: Batch) -> Arrays:
    """Mean over draws of the probability of each class for the images, noised again."""
    artifact: ClassPosterior = batch.artifact
    x = batch.read(artifact.source, artifact.source.image_variable)[artifact.source.image_variable]
    a, total = float(batch.model.schedule.alpha_bar[artifact.timestep]), 0.0
    for draw in range(artifact.num_draws):
        e = rng.normal(batch.ids, x.shape[1:], seed=draw, stream="posterior")
        x_t = batch.tensor((np.sqrt(a) * x + np.sqrt(1 - a) * e).astype(np.float32))
        total = total + batch.model.class_posterior(x_t, artifact.timestep).cpu().numpy()
    return {"probability": np.asarray(total / artifact.num_draws)}


def _pictures(batch: Batch, artifact: Artifact) -> NDArray[Any]:
    """Images as one sees them: of a latent model 8-bit RGB, else as they are in the model's own space."""
    if batch.card.domain == "pixel":
        return batch.read(artifact, artifact.image_variable)[artifact.image_variable]
    if "decoded" in artifact.variables():
        return batch.read(artifact, "decoded")["decoded"]
    latent = batch.read(artifact, artifact.image_variable)[artifact.image_variable]
    return decoded_rgb(batch.model, batch.tensor(latent))


def _in_unit_range(array: NDArray[Any]) -> NDArray[np.float32]:
    """8-bit RGB as [-1, 1]; images of a pixel model as they are."""
    return (array / 127.5 - 1).astype(np.float32) if array.dtype == np.uint8 else array
