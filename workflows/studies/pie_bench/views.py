"""The table of a benchmark of editing, with the published rows folded under it, and examples."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import workflows.analysis
from workflows.analysis.findings import Shown, cell, item_context, item_id
from workflows.analysis.presentation import DASH, Cell, Column, Figure, PaperValue, Reference, Table
from workflows.report import plots
from workflows.studies.pie_bench.measures import MEASURES, Measure

if TYPE_CHECKING:
    import xarray as xr

_LABELS = {
    "structure": "structure × 10³",
    "psnr": "PSNR, dB",
    "lpips": "LPIPS (SqueezeNet) × 10³",
    "mse": "MSE × 10⁴",
    "ssim": "SSIM × 10²",
    "clip_whole": "CLIP L/14, whole × 10²",
    "clip_edited": "CLIP L/14, edited × 10²",
}
_LEFT_OUT = {
    "structure": "structure distance (structure)",
    "lpips": "LPIPS of the unedited area (lpips)",
    "clip-whole": "CLIP similarity of the whole image (clip-whole)",
    "clip-edited": "CLIP similarity of the edited area (clip-edited)",
}
_PRESETS = {
    "pie": "Background errors are taken as the benchmark's code takes them: edited areas are blackened in both images, "
    "and means are over all pixels, so that they depend on the share of the background.",
    "clean": "Background errors are means over the background alone, which is not how published rows were made.",
}


def tables_of(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> tuple[Table, ...]:
    """The edits of a result, a row each; the published rows are folded under them where the benchmark is PIE-Bench."""
    measured = {str(name) for name in result["measure"].values}
    columns = [measure for name, measure in MEASURES.items() if name in measured]
    edits, benchmark = [str(name) for name in result["edit"].values], str(result["benchmark"].item())

    def shown(edit: str, measure: Measure) -> Cell:
        count = int(result["count"].sel(edit=edit, measure=measure.name))
        if not count:
            return DASH
        how = Shown(digits=measure.digits, scale=measure.scale)
        return replace(cell(result, "value", how, edit=edit, measure=measure.name), n=count)

    table = Table(
        id=item_id("pie-bench", index, results),
        title=f"Edits of {benchmark}, {label}",
        caption="Do edits keep what was not to change, and show what was asked? Means over images with 95 % bootstrap "
        "intervals; n of a cell is the number of images where the measure is defined.",
        row_header="Editor",
        rows=tuple(str(text) for text in result["edit_label"].values),
        row_groups=tuple(str(text) for text in result["edit_group"].values),
        columns=tuple(Column(measure.name, measure.label, group=measure.group) for measure in columns),
        cells=tuple(tuple(shown(edit, measure) for measure in columns) for edit in edits),
        notes=_notes(result, measured),
        reference=published() if benchmark == "PIE-Bench" else None,
        **item_context(result),
    )
    return (table,)


def _notes(result: xr.Dataset, measured: set[str]) -> tuple[str, ...]:
    preset, scale = str(result["preset"].item()), float(result["guidance_scale"])
    left_out = [text for name, text in _LEFT_OUT.items() if name not in measured]
    kept = int(result["without_background"])
    return (
        _PRESETS[preset],
        f"Edits are made at guidance {scale:g} from images inverted under what they show; sources of editors with "
        "attention are pinned to the states of their inversion unless a row says otherwise.",
        f"{kept} images are to change everywhere: they have no unedited area and count for CLIP similarity alone. PSNR "
        "leaves out edits whose unedited area is the source's, where it is infinite.",
        *(
            (
                f"Not measured here: {', '.join(left_out)}; --set pie-bench.measures=mse,psnr,ssim,NAME adds one.",
            )
            if left_out
            else ()
        ),
        "LPIPS is AlexNet's and CLIP is B/32, where the published rows take SqueezeNet's and L/14.",
    )


def figures_of(
    label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]
) -> tuple[Figure, ...]:
    """The first images, the area that is to change, and every edit."""
    titles = [
        f"#{int(i)} {textwrap.shorten(str(text), 40)}"
        for i, text in zip(result["example"].values, result["target"].values, strict=True)
    ]
    labels = [
        f"{group}\n{text}" if group else text
        for text, group in zip(
            map(str, result["edit_label"].values), map(str, result["edit_group"].values), strict=True
        )
    ]

    def draw() -> object:
        rows = [
            result["picture_source"].values,
            result["picture_background"].values,
            *result["picture"].values,
        ]
        return plots.image_grid(rows, ["source", "unedited area", *labels], titles)

    return (
        Figure(
            item_id("pie-bench-examples", index, results),
            f"Edits of {result['benchmark'].item()}, {label}",
            "The first images of the benchmark, the area that is not to change (the rest is black), and the edits; "
            "titles: sample, what the edit is to show.",
            draw,
            **item_context(result),
        ),
    )


@cache
def published() -> Reference:
    """The published rows of PIE-Bench."""
    file = Path(workflows.analysis.__file__).parent / "data" / "pie-bench.json"
    rows = {
        entry["row"]: {
            _LABELS[name]: PaperValue(value, None, entry["provenance"], entry["note"])
            for name, value in entry["values"].items()
        }
        for entry in json.loads(file.read_text(encoding="utf-8"))
    }
    return Reference(
        "PIE-Bench",
        "700 images; SD 1.4 (PnP: SD 1.5), T = 50, guidance 7.5; measured on JPEG files, structure distance by DINO "
        "ViT-B/8",
        rows,
    )
