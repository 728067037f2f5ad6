"""The table of variants, the table of reconstructions, and Figure 13 as a grid of pictures for each switch share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from workflows.analysis.edit_measures import (
    CLIP_MISSING,
    CLIP_NOTE,
    PROXY_NOTE,
    has_clip,
    measure_named,
)
from workflows.analysis.findings import Shown, cell, item_context, item_id, method_text, seed_of
from workflows.analysis.presentation import DASH, Cell, Column, Figure, Table
from workflows.report import plots
from workflows.studies.stochastic_edits.measures import BETWEEN, column_measure
from workflows.studies.stochastic_edits.variants import FRESH, GROUPS, LATENT, REPAIRED

if TYPE_CHECKING:
    import xarray as xr

_RATIO = "ratio"
_BACK_LABELS = {
    "mae": "mean |difference|",
    "ssim": "SSIM",
    "ratio": "mean |difference| / that of plain inversion",
}


def tables_of(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> tuple[Table, ...]:
    """Distances between variants and from the photograph with alignment, and reconstruction errors."""
    return (
        _variants(label, result, item_id("stochastic-edits", index, results)),
        _reconstructions(label, result, item_id("stochastic-edits-reconstruction", index, results)),
    )


def figures_of(
    label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]
) -> tuple[Figure, ...]:
    """Figure 13 of every switch share; that of the first has the plain name."""
    return tuple(
        _grid(label, result, float(share), item_id(f"fig13{_suffix(place, share)}", index, results))
        for place, share in enumerate(result["share"].values)
    )


def _suffix(place: int, share: float) -> str:
    return "" if place == 0 else f"-switch-{share:g}"


def _names(result: xr.Dataset) -> list[str]:
    return [str(name) for name in result["measure"].values]


def _column(name: str) -> Column:
    measure = column_measure(name)
    between = name.startswith(f"{BETWEEN}/")
    return Column(
        name,
        measure.label,
        group="Between edits of one photograph" if between else measure.group,
        proxy=measure.proxy,
    )


def _group_label(result: xr.Dataset, group: str) -> str:
    count = int(result["variants"])
    method = method_text(result)
    return {
        REPAIRED: f"{method} latents repaired, K = {int(result['forward_steps'])} ({count} seeds)",
        FRESH: f"fresh noise ({count} seeds)",
        LATENT: f"{method} latent",
        _RATIO: "repaired / fresh noise",
    }[group]


def _variants(label: str, result: xr.Dataset, table_id: str) -> Table:
    """A row for each group of edits and the ratio of two of them, once for every switch share."""
    names, shares = _names(result), [float(share) for share in result["share"].values]
    rows = [*GROUPS, _RATIO]
    clip = "" if has_clip(names) else f" {CLIP_MISSING}"
    return Table(
        id=table_id,
        title=f"Several edits of one photograph, {label}",
        caption="Do different noises in the repair give different edits? Distances between the edits of one photograph "
        "by pairs, from the photograph, and what judges see of the target and of the photograph's own condition; "
        f"beside the same of edits from fresh noise, which know nothing of the photograph's latent.{clip}",
        row_header="Edits from",
        rows=tuple(_group_label(result, row) for _ in shares for row in rows),
        row_groups=tuple(_share_text(share) for share in shares for _ in rows),
        columns=tuple(_column(name) for name in names),
        cells=tuple(
            tuple(_cell(result, share, row, name) for name in names) for share in shares for row in rows
        ),
        seed=seed_of([result]),
        **item_context(result),
        notes=_notes(result),
    )


def _share_text(share: float) -> str:
    if not share:
        return "Target from the first step on"
    return f"Own condition for the first {100 * share:g} % of the steps, then the target"


def _cell(result: xr.Dataset, share: float, row: str, name: str) -> Cell:
    if row == _RATIO:
        known = name in [str(one) for one in result["between"].values]
        return cell(result, "ratio", Shown(digits=2), share=share, between=name) if known else DASH
    where = {"share": share, "group": row, "measure": name}
    digits = 1 if name.startswith("clip-score") else 3
    return cell(result, "value", Shown(digits=digits), spread=float(result["std"].sel(where)), **where)


def _notes(result: xr.Dataset) -> tuple[str, ...]:
    n, differ, judged = (int(result[name]) for name in ("of_all", "of_distances", "of_alignments"))
    names, several = _names(result), int(result["variants"])
    judges = [name for name in names if "/" not in name and measure_named(name).of_photographs]
    counted = f"Distances are of {differ} photographs of {n} whose target is another condition"
    counted += f", alignment by judges of photographs of {judged}." if judges else "."
    return (
        *(
            (
                "The photographs are random crops of those that the model was made from, with the class or the caption "
                "of each crop.",
            )
            if int(result["crops"])
            else ()
        ),
        f"A photograph counts with the mean over its {several} edits, or over their pairs; ± is over photographs, and "
        "intervals are of the mean over photographs (bootstrap), of the ratio paired.",
        f"{method_text(result)} draws nothing: several edits of a photograph from its plain latent are one picture.",
        counted,
        *((PROXY_NOTE,) if any(_column(name).proxy for name in names) else ()),
        *((CLIP_NOTE,) if has_clip(names) else ()),
    )


def _reconstructions(label: str, result: xr.Dataset, table_id: str) -> Table:
    starts = [str(name) for name in result["start"].values]
    measures = [name for name in _BACK_LABELS if f"back_{name}" in result]
    return Table(
        id=table_id,
        title=f"Reconstructions of the photographs, {label}",
        caption="What does the repair cost? Latents sampled back under the photograph's own condition, for each noise.",
        row_header="Latent",
        rows=tuple(_start_label(result, start) for start in starts),
        columns=tuple(Column(name, _BACK_LABELS[name]) for name in measures),
        cells=tuple(tuple(_back_cell(result, start, name) for name in measures) for start in starts),
        seed=seed_of([result]),
        **item_context(result),
    )


def _start_label(result: xr.Dataset, start: str) -> str:
    if start == LATENT:
        return f"{method_text(result)} latent"
    return f"repaired (K = {int(result['forward_steps'])}), noise of seed {start.rsplit('-', 1)[-1]}"


def _back_cell(result: xr.Dataset, start: str, name: str) -> Cell:
    if name == _RATIO and start == LATENT:
        return DASH
    spread = f"back_{name}_std"
    return cell(
        result,
        f"back_{name}",
        Shown(digits=2 if name == _RATIO else 4),
        spread=float(result[spread].sel(start=start)) if spread in result else None,
        start=start,
    )


def _grid(label: str, result: xr.Dataset, share: float, figure_id: str) -> Figure:
    """Figure 13: a row a photograph, with its reconstruction and its variants."""
    seeds = [int(seed) for seed in result["seed"].values]
    source, target = (result[f"{which}_name"].values for which in ("source", "target"))
    labels = [
        f"#{int(i)} {a}\n→ {b}" for i, a, b in zip(result["example"].values, source, target, strict=True)
    ]

    def draw() -> object:
        columns = [
            result["picture_source"].values,
            result["picture_back"].values,
            *result["picture"].sel(share=share).values,
        ]
        rows = np.stack(columns, axis=1)
        return plots.image_grid(
            list(rows), labels, ["photograph", "reconstruction", *(f"seed {seed}" for seed in seeds)]
        )

    return Figure(
        figure_id,
        f"Several edits of one photograph, {label}",
        f"Photographs, reconstructions from their {method_text(result)} latents, and edits from latents repaired with "
        f"forward noise of several seeds (K = {int(result['forward_steps'])}). {_share_text(share)}. The first "
        "photographs by their ids; labels: id, condition of the photograph → target.",
        draw,
        **item_context(result),
    )
