"""What is measured of an edit: how far it is from its source, and whether it shows what it was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from taba_core.artifacts.base import Artifact
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.request import Request
from taba_core.errors import UsageError
from taba_core.metrics.extractor import Extractor, extractor_named
from taba_core.metrics.extractors.crop_classifier import CropClassifier
from taba_core.metrics.image_distance import ImageDistance, distance_named
from taba_core.stats.estimate import Estimate
from taba_core.stats.values import CosineSimilarity
from workflows.analysis.edit_conditions import Conditions
from workflows.analysis.edit_measures import SSIM, Values, alignments, judge_requests, kept, likeness
from workflows.analysis.edits import Start, pictures_of, request_name
from workflows.analysis.means import mean_of
from workflows.analysis.measured import classifier_knows, distances_of, features_of
from workflows.configuration.context import Context
from workflows.studies.edits.options import EditsOptions

if TYPE_CHECKING:
    from workflows.analysis.inputs import Inputs

Measured = Mapping[str, Mapping[str, Estimate]]  # by start and measure


def metrics(context: Context) -> list[ImageDistance]:
    """The image distances that were asked for; SSIM is a column anyway, of that name and not as a distance."""
    named = (distance_named(name) for name in context.options(EditsOptions).distances)
    return [metric for metric in named if metric.name != SSIM.name]


def extractor(context: Context) -> Extractor:
    """The features whose cosine is measured."""
    return extractor_named(context.options(EditsOptions).extractor)


def check_suited(context: Context) -> None:
    """Refuse (UsageError) pictures that a measure cannot be taken of."""
    shape = context.decoded_shape or context.card.sample_shape
    asked = {f"edits.distances={metric.name}": metric for metric in metrics(context)}
    for given, measure in {**asked, f"edits.extractor={extractor(context).name}": extractor(context)}.items():
        if unsuited := measure.unsuited(shape):
            raise UsageError(f"--set {given}: {unsuited} Use another, or another model.")


def measure_requests(
    context: Context, images: Generation, edits: Mapping[str, Artifact]
) -> dict[str, Request]:
    """Features and posteriors of the images and of the edits of every start, and the distances between both."""
    of_features = {extractor(context).name: extractor(context)}
    if classifier_knows(context):
        of_features[CropClassifier.name] = CropClassifier()
    asked = judge_requests(context, edits, clip=context.options(EditsOptions).clip)
    for name, one in of_features.items():
        for of, source in {"images": images, **edits}.items():
            asked[f"{name}/{of}"] = context.request(features_of(source, one), ("features",))
    for of, edit in edits.items():
        for metric in metrics(context):
            artifact = distances_of(edit, images, metric)
            asked[f"{metric.name}/{of}"] = context.request(artifact, ("distance",))
    return asked


def measure(
    inputs: Inputs, context: Context, starts: Sequence[Start], conditions: Conditions
) -> tuple[Measured, list[str]]:
    """Every measure of the edits of every start, and the names of the measures in their order; see `kept`."""
    found, replicates = {}, context.settings.bootstrap_replicates
    for start in starts:
        values = {
            **_likeness(inputs, context, start),
            **_by_names(inputs, context, start),
            **alignments(inputs, context, start.name, conditions),
        }
        chosen = {name: kept(name, conditions) for name in values}
        found[start.name] = {
            name: mean_of(value, chosen[name], replicates)
            for name, value in values.items()
            if chosen[name].any()
        }
    return found, list(found[starts[0].name])


def _likeness(inputs: Inputs, context: Context, start: Start) -> dict[str, Values]:
    """Mean absolute difference and SSIM of pictures and their sources."""
    image, edit = (
        pictures_of(context, "images", "image"),
        pictures_of(context, request_name(start), "edit"),
    )
    return likeness(inputs, image, edit)


def _by_names(inputs: Inputs, context: Context, start: Start) -> dict[str, Values]:
    """The distances and the cosine of features that were asked for."""
    n, found = inputs.num_samples, {}
    for metric in metrics(context):
        found[metric.name] = inputs.head(f"{metric.name}/{start.name}", "distance", n).astype(np.float64)
    name = extractor(context).name
    block = {of: inputs.head(f"{name}/{of}", "features", n) for of in ("images", start.name)}
    rows = CosineSimilarity("images", start.name).rows(block)
    return found | {f"cosine/{name}": rows["cosine"]}
