"""Where is the error of the latents? (Table 3, Figures 1 and 12)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taba_core.artifacts.request import Request
from taba_core.stats.estimate import Estimate
from taba_core.stats.regions import REGIONS, RegionError
from taba_core.stats.verdict import positive
from workflows.analysis.closed_form import FLAT_VARIANCE, flat_mode_latent, latent_theory
from workflows.analysis.findings import (
    Findings,
    cell,
    for_each,
    images_notes,
    interval_numbers,
    item_context,
    item_id,
    on_real_images,
    row_labels,
    seed_of,
)
from workflows.analysis.inputs import PICTURE_DIMS
from workflows.analysis.presentation import DASH, Cell, Column, Figure, PaperValue, Row, Section, Table
from workflows.analysis.published import paper_value
from workflows.analysis.study import Study, register
from workflows.configuration.context import Context
from workflows.report import plots

if TYPE_CHECKING:
    import xarray as xr

    from workflows.analysis.inputs import Inputs

_SHOWN = 8
_CANDIDATES = 256
_LABELS = {"plain": "Plain", "non_plain": "Non-plain", "all": "All"}
_MEASURES = {"error": "Absolute error", "std": "Standard deviation"}


@register
class Regions(Study):
    """Absolute error and standard deviation of latents in plain areas (sky, walls) and elsewhere."""

    name = "regions"
    aliases = ("table3", "fig1", "fig12")
    title = "The error sits in plain areas"
    question = "Where do latents deviate from the noise, and where do they lack variance?"
    paper_section = "3.1"
    profile_statistics = ("error", "std")
    version = 2
    reads = ("bootstrap_replicates",)

    def requests(self, context: Context) -> Mapping[str, Request]:
        """Noise, images, latents and plain masks."""
        steps = context.num_steps(self.paper_steps)
        images = context.images(steps)
        return {
            "images": context.request(images, images.end_points),
            "inversion": context.request(context.inversion(images, num_inference_steps=steps), ("latent",)),
            "regions": context.request(context.regions(images), ("region",)),
        }

    def analyse(self, inputs: Inputs, context: Context) -> xr.Dataset:
        """Errors and spreads by region, claims C3, the images whose plain share is largest."""
        columns = {
            "noise": inputs.noise("images"),
            "latent": ("inversion", "latent"),
            "region": ("regions", "region"),
        }
        of = inputs.reduce(columns, {"error": RegionError()}, context.settings.bootstrap_replicates)["error"]
        found = Findings()
        found.coordinate("region", REGIONS)
        # Real images came from no noise, so their latents have no error.
        has_noise = inputs.noise("images") is not None
        for name in ("std", "std_reference", "share", *(("error", "rms_error") if has_noise else ())):
            found.estimate(name, of[name], ("region",))
        if has_noise:
            # std(latent) >= std(noise) - RMS error, by the triangle inequality: no measurement may lie below it.
            found.array("std_bound", (of["std_reference"] - of["rms_error"]).value, ("region",))
            _error_claim(found, of)
        _find_theory(found, context, context.num_steps(self.paper_steps))
        _spread_claims(found, of)
        self._examples(found, inputs)
        return found.dataset()

    def _examples(self, found: Findings, inputs: Inputs) -> None:
        candidates = inputs.head("images", "image", _CANDIDATES)
        region = inputs.head("regions", "region", _CANDIDATES)
        chosen = _varied(candidates, region.reshape(len(region), -1).mean(axis=1))
        found.array("example_id", chosen, ("example",))
        found.array("example_region", region[chosen], ("example", "y", "x"))
        found.array("example_image", inputs.pictures("images", chosen), PICTURE_DIMS)
        for name, (request, variable) in {
            "noise": ("images", "noise"),
            "latent": ("inversion", "latent"),
        }.items():
            found.array(
                f"example_{name}",
                inputs.pick(request, variable, chosen),
                ("example", "channel", "y", "x"),
            )

    def present(self, results: Sequence[xr.Dataset]) -> Section:
        """Table 3, Figure 1 (teaser) and Figure 12 (masks)."""
        labels = row_labels(results)
        return self.section(
            results,
            tables=(_table3(labels, results),),
            figures=for_each(_figures, results, labels),
        )


def _varied(images: NDArray[Any], plain_share: NDArray[Any]) -> NDArray[np.int64]:
    """Ids of images in which both areas are well populated, chosen to differ in their colours.

    Of the quarter whose plain share is nearest to .4, the most balanced one first, then each time the image whose mean
    colour is farthest from those chosen.
    """
    distance = np.abs(plain_share - 0.4)
    pool = np.argsort(distance, kind="stable")[: max(_SHOWN, len(images) // 4)]
    colour = images.mean(axis=(2, 3), dtype=np.float64)
    chosen = [int(pool[0])]
    while len(chosen) < min(_SHOWN, len(pool)):
        gap = np.linalg.norm(colour[pool][:, None] - colour[chosen][None], axis=2).min(axis=1)
        chosen.append(int(pool[np.argmax(gap)]))
    return np.array(chosen)


def _find_theory(found: Findings, context: Context, steps: int) -> None:
    pooled, flat = latent_theory(context, steps), flat_mode_latent(context, steps)
    if pooled is not None:
        found.array("error_theory", pooled.error, long_name="closed form over all entries")
        found.array("std_theory", pooled.std, long_name="closed form over all entries")
    if flat is not None:
        found.array("error_flat", flat.expected_absolute_error)
        found.array("std_flat", flat.std)


def _error_claim(found: Findings, of: Mapping[str, Estimate]) -> None:
    more_error = of["error"][0] - of["error"][1]
    found.claim(
        "C3a",
        "The error is larger in plain areas: err_p > err_n.",
        positive(more_error),
        interval_numbers("difference", more_error),
    )


def _spread_claims(found: Findings, of: Mapping[str, Estimate]) -> None:
    std = of["std"]
    less_spread = std[1] - std[0]
    found.claim(
        "C3b",
        "The spread is smaller in plain areas: std_p < std_n.",
        positive(less_spread),
        interval_numbers("difference", less_spread),
    )
    below_one = 1.0 - std[0]
    found.claim(
        "C3c",
        "Latents have less than unit variance in plain areas: std_p < 1.",
        positive(below_one),
        interval_numbers("one_minus_std", below_one),
    )


def _table3(labels: list[str], results: Sequence[xr.Dataset]) -> Table:
    columns = tuple(
        Column(f"{measure}_{region}", label, group=group)
        for measure, group in _MEASURES.items()
        for region, label in _LABELS.items()
    )
    noise_row = (*(DASH for _ in _LABELS), *(Cell(1.0, digits=2) for _ in _LABELS))
    cells = [noise_row]
    for result in results:
        title = str(result.attrs["model_title"])
        cells.append(
            tuple(
                _cell(result, measure, region, paper_value("3", title, f"{_PAPER[measure]} / {label}"))
                for measure in _MEASURES
                for region, label in _LABELS.items()
            )
        )
    first = results[0]
    notes = [_note(label, r) for label, r in zip(labels, results, strict=True)]
    return Table(
        id="table3",
        title="Error and spread of latents by region",
        caption="Mean |x^T - x̂^T| and standard deviation of x̂^T over all entries of the region, pooled over images "
        "and channels.",
        rows=("Noise (def.)", *labels),
        columns=columns,
        cells=tuple(cells),
        seed=seed_of(results),
        **item_context(first),
        notes=(*notes, *images_notes(labels, results)),
    )


def _cell(result: xr.Dataset, measure: str, region: str, paper: PaperValue | None) -> Cell:
    if measure not in result:
        return DASH
    theory = _theory(result, measure) if region == "all" else None
    return cell(result, measure, region=region, theory=theory, paper=paper)


def _theory(result: xr.Dataset, measure: str) -> float | None:
    name = f"{measure}_theory"
    return float(result[name]) if name in result else None


def _note(label: str, result: xr.Dataset) -> str:
    def both(name: str) -> str:
        return " / ".join(f"{float(result[name].sel(region=region)):.3f}" for region in _LABELS)

    noise = "White noise" if on_real_images(result) else "The noise itself"
    text = (
        f"{label}: {float(result['share'].sel(region='plain')):.1%} of the pixels are plain. {noise} has std "
        f"{both('std_reference')} there"
    )
    if on_real_images(result):
        return text + "; real images came from no noise, so their latents have no error."
    text += f"; no latent can have less than {both('std_bound')} (noise std - RMS error)."
    if "std_flat" in result:
        text += (
            f" In closed form one flat mode (variance {FLAT_VARIANCE:g}), the limit of a plain area, has error "
            f"{float(result['error_flat']):.3f} and std {float(result['std_flat']):.3f}."
        )
    return text


_PAPER = {"error": "Absolute Error", "std": "Standard Deviation"}


def _figures(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> tuple[Figure, ...]:
    images, masks = result["example_image"].values, result["example_region"].values.astype(bool)
    noise, latent = result["example_noise"].values, result["example_latent"].values
    ids = ", ".join(map(str, result["example_id"].values))

    real = on_real_images(result)

    def draw_teaser() -> object:
        rows = [
            plots.image_tiles(images[:4]),
            plots.mask_tiles(images[:4], masks[:4]),
            *(plots.latent_tiles(plots.three_channels(x[:4]), 3.0)[0] for x in (noise, latent)),
        ]
        return plots.tile_grid(
            rows, ("$x^0$", "plain areas", "white noise" if real else "$x^T$", r"$\hat{x}^T$")
        )

    def draw_masks() -> object:
        return plots.mask_overlay_grid(images, masks)

    values = tuple(
        Row(f"{label} / image {i}", f"std {name}", float(latent[k][:, area].std()))
        for k, i in enumerate(result["example_id"].values[:4])
        for name, area in (("plain", masks[k]), ("non-plain", ~masks[k]))
        if area.any()
    )
    return (
        Figure(
            item_id("fig1", index, results),
            f"Latents are flat where the image is flat, {label}",
            f"{'Real images' if real else 'Images'}, their plain areas, "
            f"{'white noise for comparison' if real else 'the noise they came from'}, and their latents on the same "
            "scale: in plain areas the latent lacks variance.",
            draw_teaser,
            **item_context(result),
            values=values,
        ),
        Figure(
            item_id("fig12", index, results),
            f"Plain masks, {label}",
            f"Images in which both areas are well populated (samples {ids}) and their masks.",
            draw_masks,
            **item_context(result),
        ),
    )
