"""Where do latents lie between noise and image? (Figure 3)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from taba_core.artifacts.path_distances import PathDistances
from taba_core.artifacts.request import Request
from taba_core.stats.trajectory import NUM_POINTS, PathDistance
from taba_core.stats.verdict import every, positive
from workflows.analysis.closed_form import FLAT_VARIANCE, FlatCrossing, flat_mode_crossing
from workflows.analysis.findings import (
    Findings,
    for_each,
    interval_numbers,
    item_context,
    item_id,
    row_labels,
)
from workflows.analysis.presentation import Figure, Row, Section
from workflows.analysis.step_rows import path_requests
from workflows.analysis.study import Study, register
from workflows.configuration.context import Context
from workflows.report import plots

if TYPE_CHECKING:
    import xarray as xr

    from workflows.analysis.inputs import Inputs

_WEIGHTS = tuple(np.linspace(0, 1, NUM_POINTS).tolist())
# The catalogue's tolerance around "between one half and seven tenths of the way".
_EARLIEST, _LATEST = 0.45, 0.75


@register
class Location(Study):
    """Distance of every sampling state to the segment from noise to latent."""

    name = "location"
    aliases = ("fig3",)
    title = "Latents lie along the sampling path"
    question = "Where on its way from noise to image is a sample nearest to its latent?"
    paper_section = "3.2"
    paper_models = ("adm-64", "ldm", "dit")
    reads = ("bootstrap_replicates",)

    def requests(self, context: Context) -> Mapping[str, Request]:
        """Inner products of every sample's path with the segment to its latent, and a few paths to look at."""
        generation = context.generation(context.num_steps(self.paper_steps))
        rows = PathDistances(source=context.inversion(generation))
        return {
            "generation": context.request(generation, ("noise", "image")),
            "rows": context.request(rows, ("a", "b", "c")),
            **path_requests(context, generation, predictions=False),
        }

    def analyse(self, inputs: Inputs, context: Context) -> xr.Dataset:
        """Distances by inner products, claim CF3 and its companion share of images."""
        of = inputs.reduce_rows("rows", PathDistance(weights=_WEIGHTS), context.settings.bootstrap_replicates)
        found = Findings()
        found.coordinate("level", np.arange(of["to_noise"].shape[0]))
        found.coordinate("weight", _WEIGHTS)
        found.estimate("distance", of["distance"], ("level", "weight"), long_name="mean l2 distance")
        for name in ("to_noise", "to_latent", "share_nearer_latent", "nearest"):
            found.estimate(name, of[name], ("level",))
        found.estimate(
            "crossing", of["crossing"], long_name="share of the path walked when the latent is nearer"
        )
        crossing = of["crossing"]
        flat = flat_mode_crossing(context, context.num_steps(self.paper_steps))
        found.claim(
            "CF3a",
            f"The state first comes nearer to the latent than to the noise between {_EARLIEST} and {_LATEST} of the "
            "sampling path.",
            every((positive(crossing - _EARLIEST), positive(_LATEST - crossing))),
            interval_numbers("progress", crossing) | ({} if flat is None else {"flat_mode": flat.progress}),
            "" if _EARLIEST < float(crossing) < _LATEST else _why_elsewhere(flat),
        )
        # Levels ascend towards the noise, so along the path (downwards) the weight must never fall.
        smallest_move = of["nearest"].map(lambda weights: (weights[:-1] - weights[1:]).min())
        found.claim(
            "CF3b",
            "The nearest point moves from noise towards latent along the path: arg min_λ D(t, λ) never falls.",
            positive(smallest_move + 0.5 / (NUM_POINTS - 1)),
            interval_numbers("smallest_move", smallest_move),
        )
        return found.dataset()

    def present(self, results: Sequence[xr.Dataset]) -> Section:
        """Figure 3, raw and scaled, and the distances to the two ends."""
        labels = row_labels(results)
        return self.section(
            results,
            figures=for_each(_figures, results, labels),
        )


def _why_elsewhere(flat: FlatCrossing | None) -> str:
    if flat is None:
        return "The schedule and the latents' spread set this point; this model's differ from the paper's."
    return (
        "The missing variance sets this point: a mode whose latent keeps the share s of its noise is nearer to the "
        "latent once sampling has shrunk it below (1 + s)/2. In closed form a flat mode of variance "
        f"{FLAT_VARIANCE:g} keeps s = {flat.kept:.2f} under this grid and crosses at {flat.progress:.2f} of the path; "
        "latents that keep more, as the paper's networks do (std .34 to .46 in plain areas), cross earlier."
    )


def _figures(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> tuple[Figure, ...]:
    downwards = result.isel(level=slice(None, None, -1))
    crossing = float(result["crossing"])

    def draw_map() -> object:
        marks = {} if np.isnan(crossing) else {label: crossing}
        return plots.heat_map({label: downwards["distance"].values}, list(_WEIGHTS), crossing=marks)

    def draw_ends() -> object:
        def curve(name: str, text: str) -> plots.Curve:
            return plots.Curve(
                text,
                downwards[name].values,
                downwards[f"{name}_low"].values,
                downwards[f"{name}_high"].values,
            )

        return plots.step_curves(
            {
                "mean distance of $x_t$": [
                    curve("to_noise", "to noise $x^T$"),
                    curve("to_latent", r"to latent $\hat{x}^T$"),
                ],
                "share of images": [curve("share_nearer_latent", "nearer to the latent")],
            },
            "",
            xlabel="state along the sampling path, $x^T$ to $x^0$",
            first_fraction=None,
        )

    low, high = float(result["crossing_low"]), float(result["crossing_high"])
    values = (
        Row(label, "crossing", crossing, ci95=(low, high), unit="share of the path"),
        *(
            Row(label, f"distance to {name} at t={int(level)}", float(result[f"to_{name}"].sel(level=level)))
            for level in result["level"].values[:: max(1, len(result["level"]) // 5)]
            for name in ("noise", "latent")
        ),
    )
    return (
        Figure(
            item_id("fig3", index, results),
            f"Distance to the segment from noise to latent, {label}",
            "Left: min-max scaled over λ in every step, as the paper draws it (the scaling is not in its text). Right: "
            "the distance itself. White line: nearest point; dotted: the step at which the latent becomes nearer.",
            draw_map,
            **item_context(result),
            values=values,
        ),
        Figure(
            item_id("fig3-ends", index, results),
            f"Distance to noise and to latent, {label}",
            "Mean distance of the sampling state to either end, and the share of images that are nearer to their "
            "latent than to their noise.",
            draw_ends,
            **item_context(result),
        ),
    )
