"""Are the samples like real images? Sets of features compared (what Figure 5 asks of interpolations)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from taba_core.artifacts.base import SampleSource
from taba_core.artifacts.request import Request
from taba_core.errors import UsageError
from taba_core.metrics.extractor import Extractor, extractor_named
from taba_core.metrics.extractors.crop_classifier import WEIGHTS, CropClassifier
from taba_core.stats.attractors import binomial_interval
from taba_core.stats.estimate import Estimate
from taba_core.stats.frechet import FrechetDistance
from taba_core.stats.kernel_distance import kernel_distance
from taba_core.stats.manifold import DENSITY_K, PRECISION_K, neighbour_measures
from workflows.analysis.findings import (
    Findings,
    Shown,
    cell,
    for_each,
    item_context,
    item_id,
    row_labels,
    seed_of,
)
from workflows.analysis.inputs import PICTURE_DIMS
from workflows.analysis.measured import classifier_knows, features_of
from workflows.analysis.presentation import DASH, Cell, Column, Figure, Section, Table
from workflows.analysis.real_images import (
    check_extractors,
    real_sets,
    real_text,
    some_real,
    suited_extractor,
)
from workflows.analysis.study import Study, register
from workflows.configuration.context import Context
from workflows.configuration.options import Options, listed
from workflows.report import plots

if TYPE_CHECKING:
    import xarray as xr

    from workflows.analysis.inputs import Inputs

_SHOWN = 24
_PROXIES = {"frechet": "FID", "kernel": "KID"}  # what these are called of Inception's features
_MEASURES = {
    "frechet": "Fréchet distance",
    "kernel": "kernel distance",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}
# The classifier's own accuracies, by their names in what is recorded of its training.
_OF_THE_CLASSIFIER = {
    name: Column(name, f"{crops} crops", group="accuracy of the classifier")
    for name, crops in (("held_out_accuracy", "held-out"), ("training_accuracy", "other"))
}


class SampleQualityOptions(Options):
    """Options of study `sample-quality`."""

    study = "sample-quality"

    reference: str | None = Field(
        None,
        min_length=1,
        description="folder of real images to compare samples with (default: crops of the photographs that the model "
        "was made from)",
    )
    extractors: Annotated[tuple[str, ...], listed("extractor, e.g. pca-64")] = Field(
        ("pca-64", "random-convolutions", "crop-classifier"),
        description="feature extractors, comma-separated (see taba list)",
    )


@register
class SampleQuality(Study):
    """Distances of the samples' features from those of real images, beside real images against real images."""

    name = "sample-quality"
    aliases = ("quality",)
    title = "Samples beside real images"
    question = "How far are the samples from real images, in features that need no downloaded network?"
    paper_section = "4"
    paper_models = ()
    by_name_only = True
    options = SampleQualityOptions
    reads = ("bootstrap_replicates",)

    def requests(self, context: Context) -> Mapping[str, Request]:
        """Images, and their features and those of two sets of real images, by every extractor."""
        images = context.images(context.num_steps(self.paper_steps))
        sets: dict[str, SampleSource] = {"samples": images, **_real(context)}
        n = min([context.num_samples, *(of.limit for of in sets.values() if of.limit is not None)])
        if n <= DENSITY_K:
            raise UsageError(
                f"sample-quality looks for {DENSITY_K} neighbours of an image, and there are {n} images; give more "
                "(--set num_samples)."
            )
        wanted = ("image", "class_id") if _asks_for_photographs(context) else ("image",)
        asked = {"images": context.request(images, wanted, n)}
        for name in _options(context).extractors:
            extractor = suited_extractor(context, "sample-quality.extractors", name)
            for of, source in sets.items():
                asked[f"{of}/{name}"] = context.request(features_of(source, extractor), ("features",), n)
        return asked

    def check_runnable(self, context: Context) -> None:
        """Refuse (UsageError) an extractor whose packages or weights are missing."""
        check_extractors("sample-quality.extractors", _options(context).extractors)

    def analyse(self, inputs: Inputs, context: Context) -> xr.Dataset:
        """Every measure of samples against real images, and of real images against others."""
        found, names = Findings(), _options(context).extractors
        pairs = {"": "samples"} | ({"_real": "other"} if f"other/{names[0]}" in inputs.requests else {})
        measured = {
            suffix: [_measures(inputs, name, of, context.settings.bootstrap_replicates) for name in names]
            for suffix, of in pairs.items()
        }
        found.coordinate("extractor", list(names))
        for measure in _MEASURES:
            for suffix, rows in measured.items():
                _keep(found, measure + suffix, [row[measure] for row in rows])
        if _asks_for_photographs(context):
            _keep_recognised(found, inputs)
        shown = np.arange(min(_SHOWN, inputs.num_samples))
        found.array("samples", inputs.pictures("images", shown), PICTURE_DIMS)
        if (crops := some_real(context, _options(context).reference, len(shown))) is not None:
            found.array("real", crops, ("crop", *PICTURE_DIMS[1:]))
        found.array("reference", real_text(context, _options(context).reference))
        return found.dataset()

    def present(self, results: Sequence[xr.Dataset]) -> Section:
        """One table an extractor, one of what samples are taken for, and samples beside real images."""
        names = dict.fromkeys(str(name) for result in results for name in result["extractor"].values)
        return self.section(
            results,
            tables=(
                *(_table(extractor_named(name), results) for name in names),
                *_recognition_table(results),
            ),
            figures=for_each(_pictures, results, row_labels(results)),
        )


def _options(context: Context) -> SampleQualityOptions:
    return context.options(SampleQualityOptions)


def _real(context: Context) -> dict[str, SampleSource]:
    """The real images that samples are compared with, and where they can be drawn, as many others."""
    found = real_sets(context, _options(context).reference)
    if not found:
        raise UsageError(
            f"sample-quality compares samples with real images, and the training images of {context.title} are not "
            "here. Give a folder of such images: --set sample-quality.reference=FOLDER."
        )
    return found


def _measures(inputs: Inputs, extractor: str, of: str, replicates: int) -> dict[str, Estimate]:
    """Every measure of one set against the real images, by one extractor."""
    columns = {
        "features": (f"{of}/{extractor}", "features"),
        "features_real": (f"real/{extractor}", "features"),
    }
    real, rows = (inputs.rows(f"{name}/{extractor}", "features", inputs.num_samples) for name in ("real", of))
    return {
        "frechet": inputs.reduce_wide(columns, FrechetDistance())["distance"],
        "kernel": kernel_distance(real, rows, scheduler=inputs.scheduler),
        **neighbour_measures(real, rows, num_replicates=replicates, scheduler=inputs.scheduler),
    }


def _asks_for_photographs(context: Context) -> bool:
    """Whether samples are asked for by photograph, and the classifier of crops was trained on these photographs."""
    if CropClassifier.name not in _options(context).extractors or context.conditioning != "class":
        return False
    return context.given_images is None and classifier_knows(context)


def _keep_recognised(found: Findings, inputs: Inputs) -> None:
    """The share of samples that the classifier takes for the photograph that was asked, and how good it is on crops."""
    n = inputs.num_samples
    features = inputs.head(f"samples/{CropClassifier.name}", "features", n)
    taken = CropClassifier().probabilities(features).argmax(axis=1)
    right = int((taken == inputs.head("images", "class_id", n)).sum())
    for suffix, value in zip(("", "_low", "_high"), (right / n, *binomial_interval(right, n)), strict=True):
        found.array(f"recognised{suffix}", value, interval="Clopper-Pearson")
    for name in _OF_THE_CLASSIFIER:
        found.array(name, float(WEIGHTS.facts()[name]))


def _keep(found: Findings, name: str, values: Sequence[Estimate]) -> None:
    bounds = [value.interval(0.95) for value in values]
    found.array(name, [float(value.value) for value in values], ("extractor",), interval=values[0].kind)
    for end, suffix in enumerate(("_low", "_high")):
        found.array(name + suffix, [float(bound[end]) for bound in bounds], ("extractor",))


def _table(extractor: Extractor, results: Sequence[xr.Dataset]) -> Table:
    shown = [result for result in results if extractor.name in result["extractor"].values]
    stand_in = f" (stand-in for {extractor.stands_for})" if extractor.stands_for else ""
    return Table(
        id=f"sample-quality-{extractor.name}",
        title=f"Samples against real images, {extractor.title}{stand_in}",
        caption=f"Distances of two sets of equally many images by {extractor.num_features} features "
        f"({extractor.title}), and how much of one set lies among the other's.",
        rows=tuple(row_labels(shown)),
        columns=tuple(
            Column(name, label, proxy=_proxy(extractor, name)) for name, label in _MEASURES.items()
        ),
        cells=tuple(
            tuple(_cell(result, measure, extractor.name) for measure in _MEASURES) for result in shown
        ),
        seed=seed_of(shown),
        **item_context(shown[0]),
        notes=(
            f"Fréchet: of the two Gaussians of the features. Kernel: unbiased, (u·v/d + 1)^3, over all pairs. "
            f"Precision and recall: {PRECISION_K} nearest neighbours; density and coverage: {DENSITY_K}.",
            "The floor is the same measure of as many other real images against the same real ones: sets of one law "
            "are not at distance 0, nor at precision 1.",
            *(
                f"{label}: real images are {result['reference'].item()}."
                for label, result in zip(row_labels(shown), shown, strict=True)
            ),
        ),
    )


def _recognition_table(results: Sequence[xr.Dataset]) -> tuple[Table, ...]:
    """What samples are taken for, of the models that were asked for photographs; () if there is none."""
    shown = [result for result in results if "recognised" in result]
    if not shown:
        return ()
    columns = (Column("recognised", "taken for the photograph asked"), *_OF_THE_CLASSIFIER.values())
    return (
        Table(
            id="sample-quality-recognised",
            title="Samples that a classifier takes for the photograph that was asked",
            caption="Share of the samples for which a classifier of crops finds the photograph whose class the sample "
            "was asked for the most probable of ten, beside the classifier's own accuracy on real crops.",
            rows=tuple(row_labels(shown)),
            columns=columns,
            cells=tuple(tuple(cell(result, column.name) for column in columns) for result in shown),
            seed=seed_of(shown),
            **item_context(shown[0]),
            notes=(
                "A guess is right with probability 0.1. The classifier was trained on crops of the left 85 % of every "
                "photograph; held-out crops are from the right 15 %, others from the rest. Intervals: Clopper-Pearson.",
            ),
        ),
    )


def _proxy(extractor: Extractor, measure: str) -> str:
    return _PROXIES.get(measure, "") if extractor.stands_for else ""


def _cell(result: xr.Dataset, measure: str, extractor: str) -> Cell:
    if measure not in result:
        return DASH
    of_real = f"{measure}_real"
    floor = float(result[of_real].sel(extractor=extractor)) if of_real in result else None
    return cell(result, measure, Shown(floor=floor), extractor=extractor)


def _pictures(
    label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]
) -> tuple[Figure, ...]:
    rows, names = [], []
    for name, title in (("samples", "samples"), ("real", "real")):
        if name in result:
            halves = np.array_split(result[name].values, 2)
            rows += [plots.image_tiles(half) for half in halves]
            names += [title, ""]
    least = min(map(len, rows))
    return (
        Figure(
            item_id("sample-quality-samples", index, results),
            f"Samples of {label} beside real images",
            "The first samples by their ids, and real images of the kind that they are compared with.",
            lambda: plots.tile_grid([row[:least] for row in rows], names),
            **item_context(result),
        ),
    )
