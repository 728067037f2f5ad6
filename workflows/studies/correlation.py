"""Do DDIM latents follow the Gaussian they started from? (Table 2, Figure 2)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from taba_core.artifacts.request import Request
from taba_core.stats.correlation import LagCorrelation, PatchCorrelation
from taba_core.stats.estimate import Estimate
from taba_core.stats.floor import correlation_floor
from taba_core.stats.verdict import every, positive
from workflows.analysis.closed_form import lag_theory
from workflows.analysis.findings import (
    Findings,
    Shown,
    cell,
    each_own,
    for_each,
    images_notes,
    interval_numbers,
    item_context,
    item_id,
    on_real_images,
    row_labels,
    seed_of,
)
from workflows.analysis.gaussianity import patch_features
from workflows.analysis.inputs import PICTURE_DIMS
from workflows.analysis.presentation import Column, Figure, Row, Section, Table
from workflows.analysis.published import paper_value
from workflows.analysis.study import Study, register
from workflows.configuration.context import Context
from workflows.report import plots

if TYPE_CHECKING:
    import xarray as xr

    from workflows.analysis.inputs import Inputs

_OBJECTS = {"noise": ("Noise", "x^T"), "latent": ("Latent", "x̂^T"), "image": ("Sample", "x^0")}
_SHOWN = 8


@register
class Correlation(Study):
    """Top-k patch correlation of noise, latents and samples, with its finite-sample floor and bias-free kin."""

    name = "correlation"
    aliases = ("table2", "fig2")
    title = "Latents are correlated"
    question = "Do latents from DDIM inversion follow the standard Gaussian that images are generated from?"
    paper_section = "3.1"
    profile_statistics = ("correlation", "lag1")

    def requests(self, context: Context) -> Mapping[str, Request]:
        """Noise, images and their latents."""
        patch_features(context)
        steps = context.num_steps(self.paper_steps)
        images = context.images(steps)
        return {
            "images": context.request(images, images.end_points),
            "inversion": context.request(context.inversion(images, num_inference_steps=steps), ("latent",)),
        }

    def analyse(self, inputs: Inputs, context: Context) -> xr.Dataset:
        """Correlations of the three objects, claims C2, and the first images for Figure 2."""
        settings = context.settings
        columns = {
            "noise": inputs.noise("images"),
            "latent": ("inversion", "latent"),
            "image": ("images", "image"),
        }
        statistics = {f"corr/{o}": PatchCorrelation(o, settings.patch_size, settings.top_k) for o in _OBJECTS}
        lags = {f"lag/{o}": LagCorrelation(o) for o in _OBJECTS}
        estimates = inputs.reduce(columns, statistics | lags, settings.bootstrap_replicates)
        found = Findings()
        top = {o: estimates[f"corr/{o}"]["mean_top"] for o in _OBJECTS}
        for o in _OBJECTS:
            of = estimates[f"corr/{o}"]
            found.estimate(
                f"correlation_{o}", top[o], long_name=f"mean of the top-{settings.top_k} |r| per patch"
            )
            found.array(f"correlation_{o}_spread", of["spread"].value)
            found.estimate(f"excess_r2_{o}", of["excess_r2"], long_name="mean r² - 1/(n-1)")
            found.estimate(
                f"lag1_{o}", estimates[f"lag/{o}"]["value"], long_name="signed lag-1 autocorrelation"
            )
        floor = correlation_floor(context.num_samples, patch_features(context), settings.top_k)
        found.array("correlation_floor", floor.mean)
        found.array("correlation_floor_spread", floor.spread)
        theory = lag_theory(context, context.num_steps(self.paper_steps))
        if theory is not None:
            found.array("lag1_latent_theory", theory)
        _claims(found, top, estimates["corr/noise"]["excess_r2"], estimates["corr/latent"]["excess_r2"])
        shown = np.arange(min(_SHOWN, context.num_samples))
        for o, request in (("noise", "images"), ("latent", "inversion")):
            found.array(f"first_{o}", inputs.pick(request, o, shown), ("example", "channel", "y", "x"))
        found.array("first_image", inputs.pictures("images", shown), PICTURE_DIMS)
        return found.dataset()

    def present(self, results: Sequence[xr.Dataset]) -> Section:
        """Table 2, its bias-free companion, and Figure 2."""
        labels = row_labels(results)
        return self.section(
            results,
            tables=(_table2(labels, results), _unbiased(labels, results)),
            figures=for_each(_figures, results, labels),
        )


def _claims(found: Findings, top: Mapping[str, Estimate], noise_r2: Estimate, latent_r2: Estimate) -> None:
    noise, latent, image = top["noise"], top["latent"], top["image"]
    above = latent - noise
    margin = np.maximum(3 * above.standard_error, 0.05 * noise.value)
    verdict = every((positive(above - 0.05 * noise), positive(above - 3 * above.standard_error)))
    found.claim(
        "C2a",
        "Latents are more correlated than noise: corr(x̂^T) - corr(x^T) > max(3 SE, 0.05 corr(x^T)).",
        verdict,
        interval_numbers("difference", above) | {"margin": float(margin)},
    )
    gap = image - latent
    found.claim(
        "C2b",
        "Samples are far more correlated than latents: corr(x^0) > corr(x̂^T) + 0.1.",
        positive(gap - 0.1),
        interval_numbers("difference", gap),
    )
    excess = latent_r2 - noise_r2
    found.claim(
        "C2c",
        "Without the finite-sample bias: the excess r² of latents is above that of noise.",
        positive(excess),
        interval_numbers("difference", excess),
    )


def _table2(labels: list[str], results: Sequence[xr.Dataset]) -> Table:
    columns = tuple(Column(name, label, symbol) for name, (label, symbol) in _OBJECTS.items())
    cells = tuple(
        tuple(
            cell(
                result,
                f"correlation_{o}",
                Shown(floor=float(result["correlation_floor"])),
                spread=float(result[f"correlation_{o}_spread"]),
                paper=paper_value("2", str(result.attrs["model_title"]), _OBJECTS[o][0]),
            )
            for o in _OBJECTS
        )
        for result in results
    )
    first = results[0]
    largest = each_own(labels, [f"{r.attrs['settings']['top_k']}" for r in results])
    patches = each_own(labels, ["{0}×{0}".format(r.attrs["settings"]["patch_size"]) for r in results])
    return Table(
        id="table2",
        title="Correlation of noise, latents and samples",
        caption=f"Mean of the {largest} largest absolute Pearson correlations between positions of a {patches} patch, "
        "over images; ± is the spread over patches and pairs, not an error of the mean.",
        rows=tuple(labels),
        columns=columns,
        cells=cells,
        seed=seed_of(results),
        **item_context(first),
        notes=(
            "The floor is what white noise gives at this n: the paper's noise column is the floor at its own n.",
            *images_notes(labels, results),
        ),
    )


def _unbiased(labels: list[str], results: Sequence[xr.Dataset]) -> Table:
    columns = [
        Column(f"{measure}_{o}", label, symbol, group)
        for measure, group in (("excess_r2", "Excess r²  (×10⁻³)"), ("lag1", "Signed lag-1 autocorrelation"))
        for o, (label, symbol) in _OBJECTS.items()
    ]
    cells = tuple(
        tuple(
            cell(
                r,
                c.name,
                Shown(scale=1e3 if c.name.startswith("excess") else 1.0, floor=0.0),
                theory=float(r[f"{c.name}_theory"]) if f"{c.name}_theory" in r else None,
            )
            for c in columns
        )
        for r in results
    )
    first = results[0]
    return Table(
        id="table2-unbiased",
        title="The same without finite-sample bias",
        caption="Excess squared correlation, mean r² - 1/(n-1) over all pairs of a patch, and the signed "
        "autocorrelation of neighbouring pixels. Both are 0 for white noise at every n.",
        rows=tuple(labels),
        columns=tuple(columns),
        cells=cells,
        seed=seed_of(results),
        **item_context(first),
        notes=images_notes(labels, results),
    )


def _figures(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> tuple[Figure, ...]:
    noise, latent, image = (result[f"first_{o}"].values for o in _OBJECTS)

    real = on_real_images(result)
    # What a real image came from is not known, so there is no difference to show.
    states = {"white noise" if real else "$x^T$": noise, r"$\hat{x}^T$": latent}
    states |= {} if real else {r"$\hat{x}^T - x^T$": latent - noise}

    def draw_latents() -> object:
        rows = [
            plots.image_tiles(image),
            *(plots.latent_tiles(plots.three_channels(x))[0] for x in states.values()),
            plots.latent_tiles(plots.principal_channels(latent))[0],
        ]
        return plots.tile_grid(rows, ("$x^0$", *states, r"PCA of $\hat{x}^T$"))

    values = tuple(
        Row(label, o, float(result[f"correlation_{o}"]), floor=float(result["correlation_floor"]))
        for o in _OBJECTS
    )
    shown = (
        "Real images, white noise for comparison, their latents"
        if real
        else "Samples, the noise they came from, their latents, latent minus noise"
    )
    caption = (
        f"{shown}, and the principal components of the latent's channels (per image). Structure of the image shows in "
        "the latent; in the noise there is none. "
        "Every row of states has its own symmetric colour scale."
    )
    return (
        Figure(
            item_id("fig2", index, results),
            f"Latents of {label}",
            caption,
            draw_latents,
            **item_context(result),
            values=values,
        ),
    )
