"""How far apart the edits of one photograph are, how far they are from it, and whether they show what was asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from taba_core.stats.estimate import Estimate
from workflows.analysis.edit_conditions import Conditions
from workflows.analysis.edit_measures import (
    MAE,
    Measure,
    Values,
    alignments,
    distance_measure,
    kept,
    likeness,
    measure_named,
)
from workflows.analysis.edits import pictures_of
from workflows.analysis.means import mean_of
from workflows.configuration.context import Context
from workflows.studies.stochastic_edits.variants import (
    FRESH,
    GROUPS,
    Variant,
    metrics,
    of_group,
    pair_name,
    pairs,
)

if TYPE_CHECKING:
    from workflows.analysis.inputs import Inputs

# Before the names of distances: of pairs of variants, of variants and source.
BETWEEN, SOURCE = (
    "between",
    "source",
)
# By group of variants and by column: mean over images and spread over them, (2,).
Measured = Mapping[str, Mapping[str, Estimate]]


def column_measure(column: str) -> Measure:
    """What a column is of."""
    kind, slash, name = column.partition("/")
    return distance_measure(name) if slash else measure_named(kind)


def measure(
    inputs: Inputs, context: Context, share: float, every: Sequence[Variant], conditions: Conditions
) -> Measured:
    """Every column of every group at one switch share.

    A value of an image is the mean over its variants, or over the pairs of them: pairs of variants of one image are
    not independent, images are. A group of one variant has no pairs; r edits from one latent would be one picture, so
    their distance is 0.
    """
    values: dict[str, dict[str, Values]] = {}
    for group in GROUPS:
        own = of_group(every, group)
        values[group] = {
            **{f"{BETWEEN}/{name}": v for name, v in _between(inputs, context, share, own).items()},
            **{
                f"{SOURCE}/{name}": v
                for name, v in _means(own, lambda one: _from_source(inputs, context, share, one)).items()
            },
            **_means(own, lambda one: alignments(inputs, context, f"{share:g}/{one.name}", conditions)),
        }
    replicates = context.settings.bootstrap_replicates
    return {
        group: {
            name: mean_of(value, chosen, replicates)
            for name, value in of.items()
            if (chosen := _kept(name, conditions)).any()
        }
        for group, of in values.items()
    }


def reconstruction_errors(
    inputs: Inputs, context: Context, every: Sequence[Variant]
) -> dict[str, Mapping[str, Estimate]]:
    """Mean absolute error and SSIM of the reconstructions of every latent, by variant and measure; of all images."""
    found: dict[str, Mapping[str, Estimate]] = {}
    whole = np.ones(inputs.num_samples, dtype=bool)
    for variant in every:
        if variant.group == FRESH:
            continue
        image = pictures_of(context, "images", "image")
        values = likeness(inputs, image, pictures_of(context, f"back/{variant.name}", "reconstruction"))
        found[variant.name] = {
            name: mean_of(value, whole, context.settings.bootstrap_replicates)
            for name, value in values.items()
        }
    return found


def _kept(column: str, conditions: Conditions) -> np.ndarray:
    """The samples that a column is of; distances of edits whose target is the source's condition are of no edits."""
    return conditions.differ if "/" in column else kept(column, conditions)


def _means(own: Sequence[Variant], of: Callable[[Variant], Mapping[str, Values]]) -> dict[str, Values]:
    """The mean over variants of what each has, (n,) by name."""
    each = [of(variant) for variant in own]
    return {name: np.mean([values[name] for values in each], axis=0) for name in each[0]}


def _from_source(inputs: Inputs, context: Context, share: float, variant: Variant) -> dict[str, Values]:
    """Distances of one variant from the photographs."""
    name, n = f"{share:g}/{variant.name}", inputs.num_samples
    image, edit = pictures_of(context, "images", "image"), pictures_of(context, f"edit/{name}", "edit")
    found = {MAE.name: likeness(inputs, image, edit)[MAE.name]}
    for metric in metrics(context):
        found[metric.name] = inputs.head(f"{metric.name}/{name}", "distance", n).astype(np.float64)
    return found


def _between(inputs: Inputs, context: Context, share: float, own: Sequence[Variant]) -> dict[str, Values]:
    """Distances of the variants of one photograph from one another, mean over pairs; 0 where there is one variant."""
    n, names = inputs.num_samples, [MAE.name, *(metric.name for metric in metrics(context))]
    every: dict[str, list[Values]] = {name: [] for name in names}
    for a, b in pairs(own):
        columns = (pictures_of(context, f"edit/{share:g}/{one.name}", "edit") for one in (a, b))
        every[MAE.name].append(likeness(inputs, *columns)[MAE.name])
        for metric in metrics(context):
            distance = inputs.head(pair_name(metric.name, share, a, b), "distance", n)
            every[metric.name].append(distance.astype(np.float64))
    return {name: np.mean(values, axis=0) if values else np.zeros(n) for name, values in every.items()}
