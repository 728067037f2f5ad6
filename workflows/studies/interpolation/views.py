"""The tables of the path's ends and middle, Figure 5 as curves, and Figure 23 as strips of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from taba_core.metrics.extractor import Extractor, extractor_named
from taba_core.stats.set_comparison import DENSITY_K, MEASURES, PRECISION_K
from workflows.analysis.findings import Shown, cell, item_context, item_id, seed_of
from workflows.analysis.presentation import Cell, Column, Figure, Row, Table
from workflows.report import plots
from workflows.report.colors import COLORS, CYCLE, INK
from workflows.studies.interpolation.priors import LATENT, NOISE, title_of

if TYPE_CHECKING:
    import xarray as xr

_NAMES = {
    "frechet": "Fréchet distance",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}
_LINES = ("-", "--", "-.", ":")


def tables_of(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> tuple[Table, ...]:
    """A table an extractor, and one of the pairs themselves."""
    tables = [
        _table(extractor_named(str(name)), label, result, index, results)
        for name in result["extractor"].values
    ]
    return (*tables, _pairs(label, result, index, results))


def _table(
    extractor: Extractor, label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]
) -> Table:
    names = [str(name) for name in result["prior"].values]
    proxy = "FID" if extractor.stands_for else ""
    columns = [
        Column(f"{measure}_{place}", place, group=text, proxy=proxy if measure == "frechet" else "")
        for measure, text in _NAMES.items()
        for place in ("ends", "middle", *(("contrast",) if measure == "frechet" else ()))
    ]
    stand_in = f" (stand-in for {extractor.stands_for})" if extractor.stands_for else ""
    return Table(
        id=item_id(f"interpolation-{extractor.name}", index, results),
        title=f"Interpolations of {label} by {extractor.title}{stand_in}",
        caption="Images at both ends of the paths (mean of both) and in the middle against equally many real images; "
        "contrast is the middle less the ends.",
        rows=tuple(map(title_of, names)),
        row_header="Between",
        columns=tuple(columns),
        cells=tuple(
            tuple(_cell(result, column.name, extractor.name, prior) for column in columns) for prior in names
        ),
        seed=seed_of([result]),
        **item_context(result),
        notes=_notes(extractor, result),
    )


def _cell(result: xr.Dataset, column: str, extractor: str, prior: str) -> Cell:
    floor, measure = None, column.split("_")[0]
    if not column.endswith("contrast") and f"{measure}_floor" in result:
        floor = float(result[f"{measure}_floor"].sel(extractor=extractor))
    return cell(result, column, Shown(floor=floor), extractor=extractor, prior=prior)


def _notes(extractor: Extractor, result: xr.Dataset) -> tuple[str, ...]:
    n, few = int(result.attrs["n"]), ""
    if n <= extractor.num_features:
        few = (
            f" With {n} images the covariance of {extractor.num_features} features is singular, and Fréchet distances "
            "are mostly floor: read the contrast."
        )
    return (
        f"Compared with {result['reference'].item()}. The floor is the same measure of as many others of these.",
        f"Precision and recall: {PRECISION_K} nearest neighbours; density and coverage: {DENSITY_K}. Intervals: "
        "jackknife over groups of pairs, left out of both sets; for counts of neighbours they are too wide rather than "
        f"too narrow.{few}",
    )


def _pairs(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> Table:
    names = [str(name) for name in result["prior"].values]
    columns = (
        Column("cosine", "cosine of the angle between them"),
        Column("length", "root mean square of an entry"),
    )
    return Table(
        id=item_id("interpolation-pairs", index, results),
        title=f"The starting states of {label} that are interpolated",
        caption="Means over pairs, ± the spread over pairs. Independent noises are nearly at a right angle, and on the "
        "sphere every point between two states of one length has that length.",
        rows=tuple(map(title_of, names)),
        row_header="Between",
        columns=columns,
        cells=tuple(
            tuple(
                cell(
                    result,
                    column.name,
                    spread=float(result[f"{column.name}_std"].sel(prior=prior)),
                    prior=prior,
                )
                for column in columns
            )
            for prior in names
        ),
        seed=seed_of([result]),
        **item_context(result),
    )


def figures_of(
    label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]
) -> tuple[Figure, ...]:
    """Figures 5 and 23 of a result."""
    return _curves(label, result, index, results), _strips(label, result, index, results)


def _curves(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> Figure:
    extractors = [extractor_named(str(name)) for name in result["extractor"].values]
    panels = {
        f"{_NAMES[measure]}\n{extractor.name}": _lines(result, measure, extractor.name)
        for measure in MEASURES
        for extractor in extractors
    }
    stand_ins = all(extractor.stands_for for extractor in extractors)
    return Figure(
        item_id("fig5", index, results),
        f"Quality and diversity along the path, {label}",
        "Measures of the images at every point of the path between two states against equally many real images, by "
        "each extractor. Bands are 95 % intervals of noise and of plain latents at single points, those of the others "
        "stand in results.json; differences between lines are paired, and their intervals stand with the claims. The "
        "dotted black line is the same measure of real images against others.",
        lambda: plots.curve_grid(
            panels,
            result["weight"].values,
            labels=("point of the path", ""),
            columns=len(extractors),
            one_legend_a_row=True,
            share_y=False,
            height=1.8,
        ),
        values=_rows(result, extractors),
        proxy="FID, precision and recall of Inception-v3" if stand_ins else "",
        **item_context(result),
    )


def _lines(result: xr.Dataset, measure: str, extractor: str) -> list[plots.Curve]:
    curves, repaired = [], 0
    for prior in map(str, result["prior"].values):
        at = {"extractor": extractor, "prior": prior}
        color = {NOISE: COLORS["Noise"], LATENT: COLORS["Latent"]}.get(prior)
        if color is None:
            color, repaired = (COLORS["Fix"], COLORS["Sample"], *CYCLE)[repaired % 4], repaired + 1
        value, low, high = (result[f"{measure}{end}"].sel(at).values for end in ("", "_low", "_high"))
        line = _LINES[len(curves) % len(_LINES)]
        band = (low, high) if prior in (NOISE, LATENT) else (None, None)  # four bands hide each other
        curves.append(plots.Curve(title_of(prior), value, *band, color=color, line=line))
    if f"{measure}_floor" in result:
        floor = float(result[f"{measure}_floor"].sel(extractor=extractor))
        level = np.full(result.sizes["weight"], floor)
        curves.append(plots.Curve("real images", level, color=INK, line=":"))
    return curves


def _rows(result: xr.Dataset, extractors: Sequence[Extractor]) -> tuple[Row, ...]:
    rows = []
    for measure in MEASURES:
        for extractor in extractors:
            for prior in map(str, result["prior"].values):
                for weight in result["weight"].values:
                    at = {"extractor": extractor.name, "prior": prior, "weight": weight}
                    value, low, high = (float(result[measure + end].sel(at)) for end in ("", "_low", "_high"))
                    name = f"{measure} / {extractor.name} / {title_of(prior)}"
                    rows.append(Row(name, f"{weight:.3f}", value, ci95=(low, high)))
    return tuple(rows)


def _strips(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> Figure:
    tiles, names = [], []
    paths = {str(name): result[f"path_{name}"].values for name in result["prior"].values}
    pairs = next(iter(paths.values())).shape[1]
    for pair in range(pairs):
        for prior, pictures in paths.items():
            tiles.append(plots.image_tiles(pictures[:, pair]))
            names.append(title_of(prior))
    columns = [f"{weight:.2f}" for weight in result["weight"].values]
    return Figure(
        item_id("fig23", index, results),
        f"Paths between two images, {label}",
        "The first pairs by their ids, each between two noises, two latents and two repaired latents. Images at the "
        "ends are the samples themselves, and what the sampler makes of their latents.",
        lambda: plots.tile_grid(tiles, names, columns),
        **item_context(result),
    )
