"""Tables, figures and claims as what the templates show."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from workflows.analysis import published
from workflows.analysis.presentation import Claim, Figure, PaperValue, Query, Table
from workflows.report.notation import format_any
from workflows.report.site.links import claim_anchor
from workflows.report.site.places import number_of
from workflows.report.style import PICTURE_DPI
from workflows.report.tables import PROVENANCE_MARK, cell_text, column_heading, context_line

_PIXELS_PER_INCH = 118  # one scale for all figures, so that their lettering has one size on the page
_PLURAL = {"holds": "hold", "fails": "fail"}
BADGE = {"holds": ("holds", "✓"), "fails": ("fails", "✗"), "not resolved": ("unresolved", "?")}


def badge(verdict: str) -> dict[str, str]:
    """The style, sign and words of a verdict: never colour alone."""
    css, sign = BADGE[verdict]
    return {"css": css, "sign": sign, "verdict": verdict, "plural": _PLURAL.get(verdict, verdict)}


def claim_view(claim: Claim) -> dict[str, Any]:
    """A claim with its badge, anchor and numbers."""
    return {
        "source": claim,
        "anchor": claim_anchor(claim.id),
        "badge": badge(claim.verdict),
        "numbers": [(name, format_any(value)) for name, value in claim.numbers.items()],
    }


def figure_view(figure: Figure, folder: Path, query: Query | None = None) -> dict[str, Any]:
    """A figure whose files are in `folder`/figures, with the size it is shown at."""
    with Image.open(folder / "figures" / f"{figure.id}.webp") as picture:
        width = round(picture.width / PICTURE_DPI * _PIXELS_PER_INCH)
        height = round(width * picture.height / picture.width)
    context = [f"{name} = {value}" for name, value in (("n", figure.n), ("T", figure.T)) if value is not None]
    return {
        "source": figure,
        "number": number_of(figure.id),
        "width": width,
        "height": height,
        "query": query,
        "context": "; ".join([*context, *([figure.conventions] if figure.conventions else [])]),
    }


def table_view(table: Table, query: Query | None = None) -> dict[str, Any]:
    """A table with its rows as text, the published rows beside it, and how its numbers are read from the store."""
    groups = [
        (group, len(list(columns))) for group, columns in itertools.groupby(table.columns, lambda c: c.group)
    ]
    rows: list[dict[str, Any]] = []
    for index, (label, cells) in enumerate(zip(table.rows, table.cells, strict=True)):
        group = table.row_groups[index] if table.row_groups else ""
        new = bool(group) and (index == 0 or table.row_groups[index - 1] != group)
        said = f"{table.row_header}; {label}"
        shown = [(cell, cell_text(cell, said, table.conventions)) for cell in cells]
        rows.append({"label": label, "group": group if new else "", "cells": shown})
    return {
        "source": table,
        "number": number_of(table.id),
        "groups": groups if any(name for name, _ in groups) else [],
        "heads": [column_heading(column, with_group=False) for column in table.columns],
        "rows": rows,
        "words": [
            any(isinstance(row[i].value, str) for row in table.cells) for i in range(len(table.columns))
        ],
        "context": context_line(table),
        "reference": _reference(table),
        "query": query,
    }


def _reference(table: Table) -> dict[str, Any] | None:
    """Published rows as they were printed, for reading beside ours: the table's own, or the paper's of that table."""
    if table.reference is not None:
        own = table.reference
        columns = list(dict.fromkeys(column for cells in own.rows.values() for column in cells))
        return {
            "title": f"Published rows of {own.title}",
            "label": f"Published rows of {own.title}",
            "header": "Published row",
            "setting": own.setting,
            "warning": "Numbers of other models and settings than ours; none of them is a value of our model.",
            "columns": columns,
            "rows": [
                (row, [_printed(cells[column]) if column in cells else None for column in columns])
                for row, cells in own.rows.items()
            ],
        }
    if table.id != f"table{published.table_number(table.id)}":
        return None  # a companion of the paper's table, not the table itself
    entries = published.paper_rows(table.id)
    number = published.table_number(table.id)
    if not entries or number not in published.PAPER_SETTINGS:
        return None
    columns = list(dict.fromkeys(entry.column for entry in entries))
    values: dict[str, dict[str, Any]] = {}
    for entry in entries:
        values.setdefault(entry.row, {})[entry.column] = _printed(entry.value)
    rows = [(row, [cells.get(column) for column in columns]) for row, cells in values.items()]
    return {
        "title": f"The paper's rows of Table {number}",
        "label": f"Paper's Table {number}",
        "header": "Paper's row",
        "warning": "Other models than ours unless the name is the same; not to be compared across n.",
        "columns": columns,
        "rows": rows,
        "setting": published.PAPER_SETTINGS[number],
    }


def _printed(value: PaperValue) -> dict[str, str]:
    """A printed value with its spread, note and mark of provenance."""
    return {
        "value": f"{value.value:g}",
        "spread": "" if value.spread is None else f"± {value.spread:g}",
        "note": value.note,
        "mark": PROVENANCE_MARK[value.provenance],
    }


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A line a value, nested mappings by the path to it; what is empty or not set tells nothing and is left out."""
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        if value is None or value == {}:
            continue
        name = f"{prefix}{key}"
        lines += flat(value, f"{name} · ") if isinstance(value, Mapping) else [(name, format_any(value))]
    return lines
