"""Table 8, its companions, the sweep as curves, and Figure 9."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from workflows.analysis.closed_form import FLAT_VARIANCE
from workflows.analysis.findings import Shown, cell, item_context, item_id
from workflows.analysis.presentation import Cell, Column, Figure, Row, Table
from workflows.report import plots

if TYPE_CHECKING:
    import xarray as xr

_MAIN = (
    Column("correlation", "Pixel corr."),
    Column("excess_r2", "Excess r² (×10⁻³)"),
    Column("lag1", "Signed lag-1"),
    Column("kl_excess", "KL - floor (×10⁻³)"),
    Column("std", "Standard deviation"),
)
_REGIONS = {"plain": "Plain", "non_plain": "Non-plain", "all": "All"}
_SCALE = {"excess_r2": 1e3, "kl_excess": 1e3}
_DIGITS = {"kl_excess": 2}


def path_text(path: str, result: xr.Dataset) -> str:
    """What the images of a path are."""
    if path == "own":
        return "images sampled at the same T (own path)"
    return f"the same images, sampled at T = {int(result.attrs['T'])}"


def tables_of(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> tuple[Table, ...]:
    """Table 8, and error and spread by region."""
    return (_table8(label, result, index, results), _by_region(label, result, index, results))


def _table8(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> Table:
    sweep = [int(T) for T in result["inversion_steps"].values]
    paths = [str(path) for path in result["path"].values]
    cells = [tuple(_noise_cell(result, column.name) for column in _MAIN)]
    cells += [tuple(_cell(result, column.name, path, T) for column in _MAIN) for path in paths for T in sweep]
    return Table(
        id=item_id("table8", index, results),
        title=f"More inversion steps, {label}",
        caption="Measures of DDIM latents against the number of inversion steps T. Correlation is printed with its "
        "floor and ± its spread over patches and pairs; the other measures are 0 (standard deviation: 1) for white "
        "noise at every n.",
        row_header="Latents",
        rows=("Noise", *(f"T = {T}" for _ in paths for T in sweep)),
        row_groups=("", *(path_text(path, result) for path in paths for _ in sweep)),
        columns=_MAIN,
        cells=tuple(cells),
        seed=int(result.attrs["seed"]),
        **item_context(result),
        notes=_notes(result),
    )


def _notes(result: xr.Dataset) -> tuple[str, ...]:
    notes = (
        "Images of one T inverted at another do not run back along the path they came by; the paper's Table 8 does "
        f"so with images of T = 100. {_beside(result)}",
    )
    if "std_theory" in result and "std_flat" in result:
        notes += (
            "Theory: DDIM in closed form on the modes of the data (for a mixture on those of its components).",
        )
    return notes


def _beside(result: xr.Dataset) -> str:
    """What is beside the same images, or how it is asked for."""
    if "own" in result["path"].values:
        return "The own path is beside it."
    return "Images sampled at every T themselves are asked for by --set more-steps.own_path=on."


def _noise_cell(result: xr.Dataset, measure: str) -> Cell:
    spread = float(result["spread_noise"]) if measure == "correlation" else None
    return cell(result, f"{measure}_noise", _style(result, measure), spread=spread)


def _cell(result: xr.Dataset, measure: str, path: str, T: int) -> Cell:
    where = {"path": path, "inversion_steps": T}
    spread = float(result["spread"].sel(where)) if measure == "correlation" else None
    theory = None
    if f"{measure}_theory" in result:
        theory = float(result[f"{measure}_theory"].sel(where)) * _SCALE.get(measure, 1.0)
    found = cell(result, measure, _style(result, measure), spread=spread, theory=theory, **where)
    return _at(found, T)


def _at(found: Cell, T: int) -> Cell:
    """A cell of an inversion with T of its own."""
    from dataclasses import replace

    return replace(found, T=T)


def _style(result: xr.Dataset, measure: str) -> Shown:
    floor = float(result["correlation_floor"]) if measure == "correlation" else None
    return Shown(_DIGITS.get(measure, 3), scale=_SCALE.get(measure, 1.0), floor=floor)


def _by_region(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> Table:
    """Error and spread by region at every T, with the closed forms: the numbers behind Figure 9."""
    sweep = [int(T) for T in result["inversion_steps"].values]
    paths = [str(path) for path in result["path"].values]
    flat = "std_flat" in result
    columns = tuple(
        Column(f"{measure}_{region}", text, group=group)
        for measure, group in (("error", "Absolute error"), ("std", "Standard deviation"))
        for region, text in (
            (*_REGIONS.items(), ("flat", "Flat mode (theory)")) if flat else _REGIONS.items()
        )
    )

    def one(column: Column, path: str, T: int) -> Cell:
        measure, region = column.name.split("_", 1)
        where = {"path": path, "inversion_steps": T}
        if region == "flat":
            return Cell(float(result[f"{measure}_flat"].sel(where)), T=T)
        theory = None
        if region == "all" and f"{measure}_theory" in result:
            theory = float(result[f"{measure}_theory"].sel(where))
        name = "error" if measure == "error" else "std_region"
        return _at(cell(result, name, theory=theory, region=region, **where), T)

    rows = [tuple(one(column, path, T) for column in columns) for path in paths for T in sweep]
    notes = ()
    if flat:
        notes = (
            f"Flat mode: a mode of variance {FLAT_VARIANCE:g}, the limit of a plain area, in closed form.",
        )
    return Table(
        id=item_id("table8-regions", index, results),
        title=f"Where the error stays with more steps, {label}",
        caption="Mean |x^T - x̂^T| and standard deviation of x̂^T by region and T (the numbers behind Figure 9).",
        row_header="Latents",
        rows=tuple(f"T = {T}" for _ in paths for T in sweep),
        row_groups=tuple(path_text(path, result) for path in paths for _ in sweep),
        columns=columns,
        cells=tuple(rows),
        seed=int(result.attrs["seed"]),
        **item_context(result),
        notes=notes,
    )


def figures_of(
    label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]
) -> tuple[Figure, ...]:
    """The sweep as curves, and the error maps on one scale."""
    return (_curves(label, result, index, results), _maps(label, result, index, results))


def _curves(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> Figure:
    sweep = [int(T) for T in result["inversion_steps"].values]
    panels = {"correlation": "pixel correlation", "excess_r2": "excess r²", "std": "standard deviation"}
    names = {"fixed": "same images", "own": "own path"}

    def lines(measure: str) -> list[plots.Curve]:
        found = []
        for path in map(str, result["path"].values):
            text = names[path]
            values = [result[measure + s].sel(path=path).values for s in ("", "_low", "_high")]
            found.append(plots.Curve(text, *values))
        if f"{measure}_theory" in result:
            theory = result[f"{measure}_theory"].sel(path="fixed").values
            found.append(plots.Curve("same images, closed form", theory, color="#8a94a3", line=":"))
        return found

    def draw() -> object:
        floors = (float(result["correlation_noise"]), 0.0, 1.0)
        return plots.sweep_curves(
            {text: lines(measure) for measure, text in panels.items()},
            sweep,
            xlabel="inversion steps T",
            floors=floors,
        )

    whose = "the same images" + (
        " and for images sampled at that T" if "own" in result["path"].values else ""
    )
    return Figure(
        item_id("table8-sweep", index, results),
        f"Latents against the number of inversion steps, {label}",
        f"Correlation, excess r² and standard deviation of latents against T, for {whose}; "
        "bands are 95 % intervals, the dotted line is noise at the same n.",
        draw,
        **item_context(result),
    )


def _maps(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> Figure:
    shown = [int(T) for T in result["map_steps"].values]
    plain = result["map_region"].values.astype(bool)

    def draw() -> object:
        maps = result["map_error"].values
        images = result["map_image"].values
        top = [plots.image_tiles(images), plots.mask_tiles(images, plain)]
        return plots.difference_maps(
            list(maps),
            ("$x^0$", "plain areas", *(f"T = {T}" for T in shown)),
            [f"{share:.0%} plain" for share in plain.mean(axis=(1, 2))],
            top=top,
        )

    values = tuple(
        Row(f"{label} / image {int(i)}", f"error T={T} {name}", float(np.mean(error[area])), T=T)
        for T, maps in zip(shown, result["map_error"].values, strict=True)
        for i, error, mask in zip(result["map_id"].values, maps, plain, strict=True)
        for name, area in (("plain", mask), ("non-plain", ~mask))
        if area.any()
    )
    return Figure(
        item_id("fig9", index, results),
        f"Error maps against the number of inversion steps, {label}",
        "|x^T - x̂^T|, mean over channels, of the same images at several T, all on one colour scale: the error "
        "shrinks with T, and stays where images are flat. Images are at equal ranks from the least to the most plain.",
        draw,
        **item_context(result),
        values=values,
    )
