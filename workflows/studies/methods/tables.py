"""Table 7 in the paper's layout, and the scorecard of every method: Gaussianity, by region, reconstruction, cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from workflows.analysis.findings import Shown, cell, is_guided, item_context, item_id
from workflows.analysis.gaussianity import shown_beside_floor
from workflows.analysis.presentation import DASH, Cell, Column, PaperValue, Table
from workflows.analysis.published import paper_value
from workflows.studies.methods.edits import (
    BACK,
    NOISE,
    PREFIX,
    edit_columns,
    edit_notes,
    has_edits,
    table7_columns,
)
from workflows.studies.methods.lpips import lpips_notes
from workflows.studies.methods.rows import PAPER

if TYPE_CHECKING:
    import xarray as xr

_TABLE7 = (
    Column("evaluations", "NFE"),
    Column("correlation", "Pixel corr."),
    Column("kl", "KL (×10⁻²)"),
    Column("mae", "Recon. MAE"),
    Column("lpips", "Recon. LPIPS"),
    Column("psnr", "Recon. PSNR"),
    Column("seconds", "Time per image"),
)
_GAUSSIAN = (
    Column("correlation", "Pixel corr."),
    Column("excess_r2", "Excess r² (×10⁻³)"),
    Column("lag1", "Signed lag-1"),
    Column("kl_excess", "KL - floor"),
    Column("kl_global", "KL global"),
    Column("std", "Standard deviation"),
    Column("slope@all", "Spectral slope"),
)
_REGION_MEASURES = {
    "error": "Noise error",
    "std_region": "Standard deviation",
    "kl_region": "KL global",
    "lag1_region": "Signed lag-1",
    "slope": "Spectral slope",
}
_REGION_LABELS = {"plain": "Plain", "non_plain": "Non-plain"}
_BY_REGION = tuple(
    Column(f"{measure}@{region}", label, group=group)
    for measure, group in _REGION_MEASURES.items()
    for region, label in _REGION_LABELS.items()
)
_ACCURACY = (
    Column("evaluations", "NFE", group="Cost"),
    Column("seconds", "Time per image", group="Cost"),
    Column("mae", "MAE", group="Reconstruction"),
    Column("psnr", "PSNR", group="Reconstruction"),
    Column("ssim", "SSIM", group="Reconstruction"),
    Column("lpips", "LPIPS", group="Reconstruction"),
    Column("residual", "Residual (×10⁻³)", group="Steps"),
    Column("fallback_images", "Guarded images", group="Steps"),
    Column("arc_largest", "Highest", group="Self-interpolation"),
    Column("arc_bulge", "Bulge", group="Self-interpolation"),
)
_SCALE = {"kl": 1e2, "excess_r2": 1e3, "residual": 1e3, "seconds": 1e3}
_DIGITS = {
    "mae": 4,
    "psnr": 2,
    "kl": 2,
    "kl_excess": 4,
    "kl_global": 4,
    "kl_region": 4,
    "slope": 2,
    "seconds": 1,
    "arc_bulge": 4,
    "arc_largest": 4,
}
_UNIT = {"psnr": "dB", "seconds": "ms"}
# The paper's headings of the columns that have one.
_HEADINGS = {
    "evaluations": "NFEs",
    "correlation": "Corr",
    "kl": "KL",
    "mae": "MAE",
    "lpips": "LPIPS",
    "psnr": "PSNR",
    "edit_source": "CLIP Text Alignment, Source (probable)",
    "edit_target": "CLIP Text Alignment, Target (probable)",
}
# The tables' "+-": spread over patches, over images.
_SPREADS = {"correlation": "spread", "lpips": "lpips_std", BACK: f"{BACK}_std"}
_PAPER_MODEL = "sdxl"


def tables_of(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> tuple[Table, ...]:
    """Table 7 and the scorecard's three tables."""
    made = (
        _table(
            "table7",
            f"Prior inversion methods, {label}",
            "The paper's comparison. Its own values are of SDXL, and stand beside ours on that model only; below the "
            "table they are printed for reference. KL is per entry, against noise of an independent set.",
            table7_columns(result, _TABLE7),
            [name for name in _names(result) if str(result["row_group"].sel(row=name).item()) == PAPER],
            (result, index, results),
            (
                *_time_notes(result),
                *_space_notes(result),
                *lpips_notes(result),
                *edit_notes(result),
                _TABLE7_NOTE,
            ),
        ),
        _table(
            "methods-gaussianity",
            f"Are the latents Gaussian? {label}",
            "Measures that are 0 (standard deviation: 1) for white noise at every n, and the correlation with its "
            "floor. The slope is that of the radial power spectrum, 0 for white noise.",
            _GAUSSIAN,
            _names(result),
            (result, index, results),
        ),
        _table(
            "methods-regions",
            f"Where are they not? {label}",
            "Noise error |x^T - x̂^T|, spread, divergence, neighbour correlation and spectral slope of latents in plain "
            "and other areas. Correlations and divergences of one position over the images need the whole image: an "
            "area moves from image to image.",
            _BY_REGION,
            _names(result),
            (result, index, results),
        ),
        _table(
            "methods-accuracy",
            f"What do they cost, and what do they recover? {label}",
            "Network evaluations counted per image, measured time, reconstruction by the sampler that belongs to the "
            "method, residual of the steps, and the self-interpolation test: the highest "
            "distance to the image along the arc from noise to latent, and how far it lies above both ends.",
            _ACCURACY,
            _names(result),
            (result, index, results),
            (*_time_notes(result), *_space_notes(result), *lpips_notes(result), _RESIDUAL_NOTE),
        ),
        *_edits_table(label, (result, index, results)),
    )
    return tuple(table for table in made if table.rows)


def table7_row(result: xr.Dataset, name: str | None) -> list[tuple[Column, Cell]]:
    """The columns of Table 7 with the cells of one row, of whichever group it is; None is the noise's own row."""
    columns = table7_columns(result, _TABLE7)
    if name is None:
        return [(column, _noise_cell(result, column.name)) for column in columns]
    return [(column, _cell(result, name, column.name)) for column in columns]


def _edits_table(label: str, of: tuple[xr.Dataset, int, Sequence[xr.Dataset]]) -> tuple[Table, ...]:
    """What edits from every method's latents are; nothing where there are none."""
    result = of[0]
    if not has_edits(result):
        return ()
    return (
        _table(
            "methods-edits",
            f"What do edits from their latents show? {label}",
            "Latents of every method sampled under another condition: what judges see of the source's condition and of "
            "the target, and how far the edits are from their sources; beside the stand-in for LPIPS of "
            "reconstructions.",
            edit_columns(result),
            _names(result),
            of,
            edit_notes(result),
        ),
    )


_TABLE7_NOTE = (
    "ReNoise is counted with the reference prediction its regularisation takes in every step; the paper's count leaves "
    "it out."
)
_RESIDUAL_NOTE = (
    "Residual: root mean square over images and steps of P x_{l-1} + Q ε(x_l) - x_l, 0 where sampling exactly undoes "
    "the step; a dash where a method has no single state a step."
)


def _space_notes(result: xr.Dataset) -> tuple[str, ...]:
    """Decibels and structural similarity refer to images; without them states are what a codec reads."""
    if np.isfinite(result["psnr"].values).any():
        return ()
    return ("Reconstruction error in the model's latent space, not on decoded images.",)


def _names(result: xr.Dataset) -> list[str]:
    return [str(name) for name in result["row"].values]


def _table(
    id: str,
    title: str,
    caption: str,
    columns: Sequence[Column],
    names: Sequence[str],
    of: tuple[xr.Dataset, int, Sequence[xr.Dataset]],
    notes: tuple[str, ...] = (),
) -> Table:
    result, index, results = of
    with_noise = columns is not _ACCURACY
    rows = [str(result["row_label"].sel(row=name).item()) for name in names]
    groups = [str(result["row_group"].sel(row=name).item()) for name in names]
    if id == "table7":
        groups = [""] * len(names)
    cells = [tuple(_cell(result, name, column.name) for column in columns) for name in names]
    if with_noise and names:
        rows, groups = ["Gaussian noise", *rows], ["", *groups]
        cells = [tuple(_noise_cell(result, column.name) for column in columns), *cells]
    return Table(
        id=item_id(id, index, results),
        title=title,
        caption=caption,
        rows=tuple(rows),
        row_groups=tuple(groups),
        row_header="Method",
        columns=tuple(columns),
        cells=tuple(cells),
        seed=int(result.attrs["seed"]),
        notes=notes,
        **item_context(result),
    )


def _edit_cell(result: xr.Dataset, name: str, measure: str) -> Cell:
    """A measure of the edits of a row, with its spread over images."""
    where = {"edit_row": name, "edit_measure": measure}
    if not np.isfinite(float(result["edit"].sel(where))):
        return DASH
    digits = 1 if measure.startswith("clip-score") else 3
    found = cell(result, "edit", Shown(digits=digits), spread=float(result["edit_std"].sel(where)), **where)
    judge, _, which = measure.partition("_")
    if judge != "clip-score" or name == NOISE:
        return found
    return replace(found, paper=_paper(result, name, f"edit_{which}"))


def _cell(result: xr.Dataset, name: str, column: str) -> Cell:
    if column.startswith(PREFIX):
        return _with_steps(_edit_cell(result, name, column.removeprefix(PREFIX)), result, name)
    measure, _, region = column.partition("@")
    where = {"row": name} | ({"region": region} if region else {})
    if measure == "evaluations":
        return _with_steps(_evaluations(result, name), result, name)
    if measure not in result or not np.isfinite(float(result[measure].sel(where))):
        return DASH
    spread = float(result[_SPREADS[measure]].sel(row=name)) if measure in _SPREADS else None
    found = cell(result, measure, _style(result, measure), spread=spread, **where)
    found = replace(found, paper=_paper(result, name, measure))
    if measure.startswith("arc"):
        found = replace(found, n=int(result["arc_samples"]))
    return _with_steps(found, result, name)


def _with_steps(found: Cell, result: xr.Dataset, name: str) -> Cell:
    """The cell with the T of its own inversion."""
    return replace(found, T=int(result["row_steps"].sel(row=name)))


def _evaluations(result: xr.Dataset, name: str) -> Cell:
    """Counted evaluations of an image: a whole number where all images took as many, else their mean."""
    least, most = (int(result[f"evaluations_{end}"].sel(row=name)) for end in ("least", "most"))
    paper = _paper(result, name, "evaluations")
    if least == most:
        return Cell(float(least), digits=0, paper=paper)
    return replace(cell(result, "evaluations", Shown(digits=1), row=name), paper=paper)


def _noise_cell(result: xr.Dataset, column: str) -> Cell:
    if column.startswith(PREFIX):
        return _edit_cell(result, NOISE, column.removeprefix(PREFIX))
    measure, _, region = column.partition("@")
    name = f"{measure}_noise"
    if name not in result:
        return DASH
    where = {"region": region} if region else {}
    spread = float(result["spread_noise"]) if measure == "correlation" else None
    found = cell(result, name, _style(result, measure), spread=spread, **where)
    return replace(found, paper=_paper_of(result, "Gaussian Noise", measure))


def _paper(result: xr.Dataset, name: str, measure: str) -> PaperValue | None:
    return _paper_of(result, str(result["row_paper"].sel(row=name).item()), measure)


def _paper_of(result: xr.Dataset, row: str, measure: str) -> PaperValue | None:
    """The paper's value of one of its rows, for its own model without guidance; None for every other."""
    heading = _HEADINGS.get(measure)
    if not (row and heading) or is_guided(result) or str(result.attrs["model"]) != _PAPER_MODEL:
        return None
    return _scaled(paper_value("table7", row, heading), measure)


def _scaled(paper: PaperValue | None, measure: str) -> PaperValue | None:
    """The paper's value in the unit of our column."""
    if paper is None:
        return None
    scale = _SCALE.get(measure, 1.0)
    spread = None if paper.spread is None else paper.spread * scale
    return replace(paper, value=paper.value * scale, spread=spread)


def _style(result: xr.Dataset, measure: str) -> Shown:
    return shown_beside_floor(result, measure, _SCALE, _DIGITS, _UNIT.get(measure, ""))


def _time_notes(result: xr.Dataset) -> tuple[str, ...]:
    machine = str(result["seconds"].attrs.get("machine", ""))
    if not machine:
        return ()
    return (
        f"Times were measured where the inversions ran ({machine}), whole batches on one worker, without writing and "
        "without measuring residuals; they differ from run to run.",
    )
