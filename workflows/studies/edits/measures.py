"""What is measured of an edit: how far it is from its source, and whether it shows what it was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from taba_core.artifacts.base import Artifact
from taba_core.artifacts.class_posterior import ClassPosterior
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.request import Request
from taba_core.errors import UsageError
from taba_core.metrics.extractor import Extractor, extractor_named
from taba_core.metrics.extractors.crop_classifier import CropClassifier
from taba_core.metrics.image_distance import ImageDistance, distance_named
from taba_core.models.class_counts import num_classes
from taba_core.stats.compressibility import to_bytes
from taba_core.stats.estimate import Estimate
from taba_core.stats.similarity import WINDOW, structural_similarity
from taba_core.stats.values import CosineSimilarity
from workflows.analysis.edits import Start, pictures_of, request_name
from workflows.analysis.means import mean_of
from workflows.analysis.measured import classifier_knows, distances_of, features_of
from workflows.configuration.context import Context
from workflows.studies.edits.conditions import Conditions
from workflows.studies.edits.options import EditsOptions

if TYPE_CHECKING:
    from workflows.analysis.inputs import Inputs

Values = NDArray[np.float64]
Measured = Mapping[str, Mapping[str, Estimate]]  # by start and measure
DISTANCE, ALIGNMENT = "Distance from the source", "Alignment"


@dataclass(frozen=True)
class Measure:
    """One column.

    Attributes:
      name: in results. label: in tables.
      group: DISTANCE or ALIGNMENT.
      sign: 1 where the paper says that edits from noise have more of it than edits from latents, else -1.
      proxy: the measure it stands for; "" if it is the thing itself.
    """

    name: str
    label: str
    group: str
    sign: Literal[1, -1]
    proxy: str = ""


MAE = Measure("mae", "mean |difference|", DISTANCE, 1)
SSIM = Measure("ssim", "SSIM", DISTANCE, -1)
_BY_JUDGE = {"classifier": "crop classifier", "posterior": "posterior"}
ALIGNMENTS = tuple(
    Measure(f"{judge}_{of}", f"{label}, {of}", ALIGNMENT, sign, f"CLIP-T ({of})")
    for judge, label in _BY_JUDGE.items()
    for of, sign in (("target", 1), ("source", -1))
)


def measure_named(name: str) -> Measure:
    """The measure of a result's column."""
    for known in (MAE, SSIM, *ALIGNMENTS):
        if known.name == name:
            return known
    if name.startswith("cosine/"):
        extractor = extractor_named(name.removeprefix("cosine/"))
        proxy = "DINO" if extractor.stands_for else ""
        return Measure(name, f"cosine, {extractor.title}", DISTANCE, -1, proxy)
    metric = distance_named(name)
    return Measure(name, metric.title, DISTANCE, 1, metric.stands_for)


def metrics(context: Context) -> list[ImageDistance]:
    """The image distances that were asked for."""
    return [distance_named(name) for name in context.options(EditsOptions).distances]


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
    asked = {}
    extractors = {extractor(context).name: extractor(context)}
    if classifier_knows(context):
        extractors[CropClassifier.name] = CropClassifier()
    for name, one in extractors.items():
        for of, source in {"images": images, **edits}.items():
            asked[f"{name}/{of}"] = context.request(features_of(source, one), ("features",))
    for of, edit in edits.items():
        for metric in metrics(context):
            artifact = distances_of(edit, images, metric)
            asked[f"{metric.name}/{of}"] = context.request(artifact, ("distance",))
        if _has_posterior(context):
            count = num_classes(context.card, context.model_spec)
            posterior = ClassPosterior(source=edit, num_classes=count)
            asked[f"posterior/{of}"] = context.request(posterior, ("probability",))
    return asked


def _has_posterior(context: Context) -> bool:
    """Whether the model knows the probability of a class: a mixture that is conditioned on one."""
    return context.card.embedded and context.conditioning == "class"


def measure(
    inputs: Inputs, context: Context, starts: Sequence[Start], conditions: Conditions
) -> tuple[Measured, list[str]]:
    """Every measure of the edits of every start, and the names of the measures in their order.

    Of edits whose target is their source's condition nothing is measured, and of those whose target is the same
    photograph no alignment: both ask for no change.
    """
    found, replicates = {}, context.settings.bootstrap_replicates
    for start in starts:
        values = {
            **_likeness(inputs, context, start),
            **_by_names(inputs, context, start),
            **_alignments(inputs, start, conditions),
        }
        kept = {
            name: conditions.recognisable if measure_named(name).group == ALIGNMENT else conditions.differ
            for name in values
        }
        found[start.name] = {
            name: mean_of(value, kept[name], replicates) for name, value in values.items() if kept[name].any()
        }
    return found, list(found[starts[0].name])


def _likeness(inputs: Inputs, context: Context, start: Start) -> dict[str, Values]:
    """Mean absolute difference, in units of [-1, 1], and SSIM of 8-bit pictures and their sources."""
    columns = {
        "image": pictures_of(context, "images", "image"),
        "edit": pictures_of(context, request_name(start), "edit"),
    }

    def of(block: Mapping[str, NDArray[Any]]) -> Values:
        image, edit = (to_bytes(block[name]).astype(np.float64) for name in ("image", "edit"))
        mae = np.abs(image - edit).mean(axis=(1, 2, 3)) / 127.5
        if min(image.shape[2:]) < WINDOW:
            return np.stack([mae], axis=1)
        return np.stack([mae, structural_similarity(image, edit, 255.0)], axis=1)

    values = inputs.per_sample(columns, of)
    return dict(zip((MAE.name, SSIM.name), values.T, strict=False))


def _by_names(inputs: Inputs, context: Context, start: Start) -> dict[str, Values]:
    """The distances and the cosine of features that were asked for."""
    n, found = inputs.num_samples, {}
    for metric in metrics(context):
        found[metric.name] = inputs.head(f"{metric.name}/{start.name}", "distance", n).astype(np.float64)
    name = extractor(context).name
    block = {of: inputs.head(f"{name}/{of}", "features", n) for of in ("images", start.name)}
    rows = CosineSimilarity("images", start.name).rows(block)
    return found | {f"cosine/{name}": rows["cosine"]}


def _alignments(inputs: Inputs, start: Start, conditions: Conditions) -> dict[str, Values]:
    """The probabilities that each judge gives what the edit was asked for, and what its source was asked for."""
    n, found, judged = inputs.num_samples, {}, {}
    if f"{CropClassifier.name}/{start.name}" in inputs.requests:
        features = inputs.head(f"{CropClassifier.name}/{start.name}", "features", n)
        judged["classifier"] = CropClassifier().probabilities(features)
    if f"posterior/{start.name}" in inputs.requests:
        judged["posterior"] = inputs.head(f"posterior/{start.name}", "probability", n)
    for judge, probability in judged.items():
        for of, which in (("target", conditions.target), ("source", conditions.source)):
            found[f"{judge}_{of}"] = np.take_along_axis(probability, which[:, None], axis=1)[:, 0]
    return found
