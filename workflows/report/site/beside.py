"""Beside the paper: all claims with its evidence and ours, all recovered numbers with ours where they match."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from workflows.analysis import published
from workflows.analysis.presentation import Cell, Claim, Run, Section, Table
from workflows.report.model_groups import GROUPS, group_of
from workflows.report.notation import format_number
from workflows.report.site.items import badge
from workflows.report.site.sources import evidence
from workflows.report.tables import PROVENANCE_MARK, cell_text

_DIGITS = 3
Place = tuple[str, str, str]


def claim_rows(run: Run) -> dict[str, Any]:
    """A row a claim (its own id), a column a model: verdict and first number, and what the paper shows for it."""
    rows: dict[str, dict[str, Any]] = {}
    for section in run.sections:
        for claim in section.claims:
            row = rows.setdefault(
                claim.base,
                {
                    "id": claim.base,
                    "study": claim.study or section.study,
                    "statement": claim.statement,
                    "evidence": evidence(claim.base),
                    "cells": {},
                },
            )
            # Of several results of a model the first speaks for it: the largest.
            row["cells"].setdefault(
                claim.model, {"source": claim, "badge": badge(claim.verdict), "number": first_number(claim)}
            )
    found = dict.fromkeys(model for row in rows.values() for model in row["cells"])
    models = sorted(found, key=lambda model: GROUPS.index(group_of(model)))  # stable within a group
    titles = {model.name: model.title for model in run.models}
    return {"models": [(model, titles.get(model, model)) for model in models], "rows": list(rows.values())}


def first_number(claim: Claim) -> str:
    """The first number of a claim that has an interval, with its name; "" where none has."""
    for name, value, ends in _with_intervals(claim.numbers):
        low, high = (format_number(float(end), _DIGITS) for end in ends)
        return f"{name} {format_number(float(value), _DIGITS)} [{low}, {high}]"
    return ""


def _with_intervals(numbers: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float, list[float]]]:
    for name, value in numbers.items():
        shown = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _with_intervals(value, f"{shown}, ")
        elif _finite(value) and all(map(_finite, ends := numbers.get(f"{name}_ci95") or [None])):
            yield shown, value, list(ends)


def _finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def recovered_numbers(run: Run) -> list[dict[str, Any]]:
    """Every recovered number of the paper's tables, by table, with ours where model, n and T are the paper's.

    Elsewhere the row says which of them differ, and no number of ours stands beside the paper's.
    """
    ours = dict(_cells_by_place(run))
    tables: dict[str, list[dict[str, Any]]] = {}
    for entry in published.recovered():
        place = entry.value.place
        if place is None or published.paper_run(place) is None:
            continue
        tables.setdefault(place[0], []).append(_recovered(entry, place, ours.get(place)))
    return [
        {"number": table, "setting": published.PAPER_SETTINGS[table], "rows": rows}
        for table, rows in sorted(tables.items(), key=lambda entry: int(entry[0]))
    ]


def _recovered(
    entry: published.PaperEntry, place: Place, own: tuple[Section, Table, Cell] | None
) -> dict[str, Any]:
    value = entry.value
    told = {
        "row": entry.row,
        "column": entry.column,
        "paper": f"{value.value:g}" + ("" if value.spread is None else f" ± {value.spread:g}"),
        "mark": PROVENANCE_MARK[value.provenance],
        "note": value.note,
    }
    if own is None:
        return told | {"ours": None, "why": "not run on this model", "study": "", "item": ""}
    section, table, cell = own
    n, T = (cell.n or table.n, cell.T or table.T)
    wanted = published.paper_run(place)
    if (n, T) != wanted:
        assert wanted is not None
        return told | {
            "ours": None,
            "why": f"ours has n = {n}, T = {T}; the paper n = {wanted[0]}, T = {wanted[1]}",
            "study": section.study,
            "item": table.id,
        }
    return told | {"ours": cell_text(cell), "why": "", "study": section.study, "item": table.id}


def _cells_by_place(run: Run) -> Iterator[tuple[Place, tuple[Section, Table, Cell]]]:
    """Every cell that has a number of the paper beside it, by the place of that number."""
    for section in reversed(run.sections):
        for table in reversed(section.tables):
            for row in table.cells:
                for cell in row:
                    if cell.paper is not None and cell.paper.place is not None:
                        yield cell.paper.place, (section, table, cell)
