"""The edit columns of Table 7: what the sampler makes of every row's latents under another condition.

Edits need images with a condition. Where the study's own images have none, and the model can read one, edits are of
images of the same noise that are made with a class and inverted again by every row; no other number of the study
depends on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from taba_core.artifacts.edit import Edit
from taba_core.artifacts.request import Request
from taba_core.metrics.distances.lpips import Lpips
from taba_core.metrics.distances.random_lpips import RandomLpips
from taba_core.metrics.image_distance import ImageDistance
from taba_core.stats.estimate import Estimate
from workflows.analysis.edit_conditions import Conditions, conditions_of
from workflows.analysis.edit_measures import (
    ALIGNMENT,
    CLIP_MISSING,
    CLIP_NOTE,
    DISTANCE,
    MAE,
    Values,
    alignments,
    has_clip,
    judge_requests,
    kept,
    likeness,
    measure_named,
)
from workflows.analysis.edits import pictures_of
from workflows.analysis.findings import Findings
from workflows.analysis.means import mean_of
from workflows.analysis.measured import distances_of
from workflows.analysis.presentation import Column
from workflows.configuration.context import Context
from workflows.configuration.edits import check_condition, edit_of
from workflows.studies.methods.lpips import is_measured
from workflows.studies.methods.options import MethodsOptions
from workflows.studies.methods.rows import MethodRow

if TYPE_CHECKING:
    import xarray as xr

    from workflows.analysis.inputs import Inputs

NOISE = "noise"  # the row of edits from the noise that the images were sampled from
BACK = "back_proxy"  # the stand-in for LPIPS of reconstructions
PREFIX = "edit/"  # before the names of columns that show a measure of edits
_IMAGES = "edits/images"
# Judges in the order in which Table 7 prefers them; it has room for one.
_PREFERRED = ("clip-score", "posterior", "classifier")


def are_wanted(context: Context) -> bool:
    """Whether edits are made: as asked, else of models without a network that can read a condition.

    Raises:
      UsageError: edits are asked of a model that reads no condition.
    """
    asked = context.options(MethodsOptions).edits
    if asked == "on" and context.card.conditional == "none":
        check_condition("none", context.card)
    return asked == "on" or (asked == "auto" and context.card.embedded and context.card.conditional != "none")


def with_condition(context: Context) -> Context:
    """The context of the images that are edited: with a class where the study's own images have no condition."""
    if context.conditioning != "none":
        return context
    return replace(context, settings=context.settings.model_copy(update={"conditioning": "class"}))


def edit_requests(context: Context, rows: Sequence[MethodRow], steps: int) -> dict[str, Request]:
    """Edits of the noise and of every row's latents with what is measured of them, and of reconstructions; T = steps.

    Empty where no edits are wanted.
    """
    if not are_wanted(context):
        return {}
    own = with_condition(context)
    images, latent = own.generation(steps), own.card.domain == "latent"
    edits: dict[str, Edit] = {NOISE: edit_of(own, images)}
    edits |= {row.name: edit_of(own, row.inversion(own, images)) for row in rows}
    asked = {_IMAGES: own.request(images, ("image", *images.condition_variables[-1:]))}
    for name, edit in edits.items():
        asked[f"edit/{name}"] = own.request(edit, edit.always_stored(latent=latent))
        for metric in _metrics(context):
            distance = distances_of(edit, images, metric)
            asked[f"edit-{metric.name}/{name}"] = own.request(distance, ("distance",))
    if not RandomLpips().unsuited(_shape(context)):
        for row in rows:
            inversion = row.inversion(context, context.generation(steps))
            back = distances_of(context.reconstruction(inversion), inversion.source, RandomLpips())
            asked[f"{BACK}/{row.name}"] = context.request(back, ("distance",))
    return asked | judge_requests(own, edits, clip=context.options(MethodsOptions).clip)


def _metrics(context: Context) -> list[ImageDistance]:
    """Distances of edits from their sources: the stand-in, and LPIPS where it was asked for."""
    found: list[ImageDistance] = [] if RandomLpips().unsuited(_shape(context)) else [RandomLpips()]
    return [*found, Lpips()] if is_measured(context) else found


def _shape(context: Context) -> tuple[int, ...]:
    return context.decoded_shape or context.card.sample_shape


def find_edits(found: Findings, inputs: Inputs, context: Context, rows: Sequence[MethodRow]) -> None:
    """Measure the edits of the noise and of every row, where there are edits, and keep the numbers."""
    if not are_wanted(context):
        return
    own, names = with_condition(context), [NOISE, *(row.name for row in rows)]
    conditions = conditions_of(inputs, own, _IMAGES, f"edit/{NOISE}")
    measured = {name: _measure(inputs, own, name, conditions) for name in names}
    columns = list(measured[NOISE])
    found.coordinate("edit_row", names)
    found.coordinate("edit_measure", columns)
    values = Estimate.stack([Estimate.stack([of[column] for column in columns]) for of in measured.values()])
    found.estimate("edit", values[..., 0], ("edit_row", "edit_measure"))
    found.array("edit_std", values.value[..., 1], ("edit_row", "edit_measure"))
    found.array("edit_images", int(conditions.differ.sum()))
    found.array("edit_of_photographs", int(conditions.recognisable.sum()))
    found.array("edit_other_images", own is not context)
    if f"{BACK}/{rows[0].name}" in inputs.requests:
        every = np.ones(inputs.num_samples, dtype=bool)
        back = [
            mean_of(_distance(inputs, f"{BACK}/{row.name}"), every, context.settings.bootstrap_replicates)
            for row in rows
        ]
        found.estimate(BACK, Estimate.stack(back)[:, 0], ("row",))
        found.array(f"{BACK}_std", Estimate.stack(back).value[:, 1], ("row",))


def _distance(inputs: Inputs, name: str) -> Values:
    return inputs.head(name, "distance", inputs.num_samples).astype(np.float64)


def _measure(inputs: Inputs, context: Context, name: str, conditions: Conditions) -> Mapping[str, Estimate]:
    image, edit = pictures_of(context, _IMAGES, "image"), pictures_of(context, f"edit/{name}", "edit")
    values = {
        **alignments(inputs, context, name, conditions),
        MAE.name: likeness(inputs, image, edit)[MAE.name],
        **{metric.name: _distance(inputs, f"edit-{metric.name}/{name}") for metric in _metrics(context)},
    }
    return {
        measure: mean_of(value, kept(measure, conditions), context.settings.bootstrap_replicates)
        for measure, value in values.items()
        if kept(measure, conditions).any()
    }


# ---------------------------------------------------------------- columns


def has_edits(result: xr.Dataset) -> bool:
    """Whether a result has edits."""
    return "edit" in result


def edit_columns(result: xr.Dataset) -> tuple[Column, ...]:
    """A column for every measure of edits, and one of reconstructions where LPIPS has a stand-in."""
    names = [str(name) for name in result["edit_measure"].values]
    measures = [measure_named(name) for name in names]
    columns = [
        Column(f"{PREFIX}{one.name}", one.label, group=f"Edits: {one.group.lower()}", proxy=one.proxy)
        for group in (ALIGNMENT, DISTANCE)
        for one in measures
        if one.group == group
    ]
    return (*columns, *_back_column(result, "Reconstruction"))


def _back_column(result: xr.Dataset, group: str) -> tuple[Column, ...]:
    if BACK not in result:
        return ()
    return (Column(BACK, RandomLpips.title, group=group, proxy=RandomLpips.stands_for),)


def table7_columns(result: xr.Dataset, columns: Sequence[Column]) -> tuple[Column, ...]:
    """The columns of Table 7 with Source and Target before the time, by the judge that is preferred of those here.

    Source and Target are how well the edit agrees with its source's text and with its own (paper, Table 7).
    """
    if not has_edits(result):
        return tuple(columns)
    names = [str(name) for name in result["edit_measure"].values]
    judge = next((one for one in _PREFERRED if f"{one}_target" in names), "")
    added = [
        Column(
            f"{PREFIX}{judge}_{which}",
            which.capitalize(),
            group=f"Edits, {measure_named(f'{judge}_{which}').label.split(',')[0]}",
            proxy=measure_named(f"{judge}_{which}").proxy,
        )
        for which in ("source", "target")
        if judge
    ]
    place = [column.name for column in columns].index("seconds")
    return (*columns[:place], *added, *columns[place:])


def edit_notes(result: xr.Dataset) -> tuple[str, ...]:
    """What the edit columns are of, or why there are none."""
    if not has_edits(result):
        return (
            "The alignment of edits is not measured; --set methods.edits=on measures it of models that read a class or "
            "a prompt.",
        )
    names = [str(name) for name in result["edit_measure"].values]
    n, judged = int(result["edit_images"]), int(result["edit_of_photographs"])
    others = (
        " The images of the other columns have no condition, so edits are of images of the same noise that were made "
        "with a class, and inverted again by every method."
        if int(result["edit_other_images"])
        else ""
    )
    of_photographs = any(measure_named(name).of_photographs for name in names)
    return (
        f"Edits: latents sampled under another condition, of {n} images whose target is another one"
        + (f"; judges of photographs of {judged}." if of_photographs else ".")
        + f" Source and Target: how well an edit agrees with the source's condition and with its own.{others}",
        CLIP_NOTE if has_clip(names) else CLIP_MISSING,
    )
