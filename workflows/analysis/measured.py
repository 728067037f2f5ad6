"""What studies measure of images of any kind: features, distances, and whether the classifier of crops knows them."""

from __future__ import annotations

from taba_core.artifacts.base import Artifact
from taba_core.artifacts.distances import Distances
from taba_core.artifacts.features import Features
from taba_core.metrics.extractor import Extractor
from taba_core.metrics.extractors.crop_classifier import WEIGHTS
from taba_core.metrics.image_distance import ImageDistance
from taba_core.models.base import training_photos
from taba_core.models.photos import content_of, load_photos
from workflows.configuration.context import Context


def features_of(source: Artifact, extractor: Extractor) -> Features:
    """The features of the images of an artifact."""
    return Features(
        source=source,
        extractor=extractor.name,
        fingerprint=extractor.fingerprint(),
        num_features=extractor.num_features,
    )


def distances_of(source: Artifact, reference: Artifact, metric: ImageDistance) -> Distances:
    """The distances of the images of an artifact from those of another, pair by pair."""
    return Distances(source=source, reference=reference, metric=metric.name, fingerprint=metric.fingerprint())


def classifier_knows(context: Context) -> bool:
    """Whether the model was made from the photographs that the classifier of crops was trained on."""
    if training_photos(context.model_spec) != "builtin":
        return False
    fingerprint: str = WEIGHTS.facts()["photos_fingerprint"]
    return fingerprint == content_of(load_photos()).fingerprint
