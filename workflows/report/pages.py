"""The HTML page: a run's objects as what the template shows."""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from workflows.analysis import published
from workflows.analysis.presentation import (
    PROVENANCE_MEANING,
    Claim,
    Failure,
    Figure,
    PaperValue,
    Run,
    Section,
    Table,
)
from workflows.report.notation import format_any, to_html
from workflows.report.style import PNG_DPI
from workflows.report.tables import PROVENANCE_MARK, cell_text, column_heading, context_line
from workflows.report.verdicts import verdict_table

_FOLDER = Path(__file__).parent
_PIXELS_PER_INCH = 118  # one scale for all figures, so that their lettering has one size on the page
_BADGE = {"holds": ("holds", "✓"), "fails": ("fails", "✗"), "not resolved": ("unresolved", "?")}


def render(run: Run, folder: Path, failures: list[Failure]) -> str:
    """The page as text; figures are taken from `folder`/figures and embedded.

    The page needs no other file: style and pictures are inside it, and the links to the table and figure
    files beside it are relative. What is among `failures` is named in its place; parts that only the page cannot show
    are added to them.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["maths"] = lambda text: Markup(to_html(text))
    environment.filters["shown"] = format_any
    template = environment.get_template("template.html.j2")
    parts = environment.get_template("parts.html.j2").module
    sections = [_section(section, folder, parts, failures) for section in run.sections]
    headline = _headline(run, failures)
    return template.render(
        run=run,
        css=Markup((_FOLDER / "style.css").read_text(encoding="utf-8")),
        sections=sections,
        headline=headline,
        failures=failures,
        claims=[claim for section in sections for claim in section["claims"]],
        tally=_tally(run),
        verdicts=_verdicts(run),
        provenance=_flat({name: value for name, value in run.provenance.items() if name != "runs"}),
        runs=[(title, _flat(entry)) for title, entry in run.provenance.get("runs", {}).items()],
        marks=[(PROVENANCE_MARK[name], name, text) for name, text in PROVENANCE_MEANING.items()],
    )


def in_paper_order(sections: tuple[Section, ...]) -> list[Section]:
    """Sections sorted by `paper_section` ("3.1" before "3.10", numbers before appendices, then the rest)."""

    def order(section: Section) -> tuple[int, list[int], str]:
        text = section.paper_section
        numbers = [int(part) for part in re.findall(r"\d+", text)]
        if text[:1].isdigit():
            return (0, numbers, "")
        return (1, [], text) if text else (2, [], "")

    return sorted(sections, key=order)


def _section(section: Section, folder: Path, parts: Any, failures: list[Failure]) -> dict[str, Any]:
    tables = (("table", t, lambda t: parts.full_table(_table(t))) for t in section.tables)
    figures = (("figure", f, lambda f: parts.figure(_figure(f, folder))) for f in section.figures)
    return {
        "source": section,
        "items": [
            _item(kind, item, make, section, parts, failures) for kind, item, make in (*tables, *figures)
        ],
        "claims": [_claim(claim, section) for claim in section.claims],
        "provenance": _flat(section.provenance),
    }


def _item(
    kind: Any, item: Any, make: Callable[[Any], Any], section: Section, parts: Any, failures: list[Failure]
) -> dict[str, Any]:
    """A table or figure as the page shows it, or what is shown in its place."""
    known = [failure for failure in failures if (failure.kind, failure.id) == (kind, item.id)]
    if not known:
        try:
            return {"id": item.id, "heading": parts.heading(item.title), "html": make(item)}
        except Exception as error:  # whatever is wrong with one part, the others are shown
            known = [Failure.of(kind, item.id, section.study, item.title, error)]
            failures += known
    return {"id": item.id, "heading": parts.plain(item.title), "html": parts.failed(known[0])}


def _headline(run: Run, failures: list[Failure]) -> dict[str, Any] | None:
    failed = {failure.id for failure in failures if failure.kind == "table"}
    tables = [table for section in run.sections for table in section.tables]
    chosen = [table for table in tables if table.id == run.headline and table.id not in failed]
    return _table(chosen[0]) if chosen else None


def _tally(run: Run) -> list[tuple[str, str, int]]:
    verdicts = [claim.verdict for claim in run.claims]
    return [(css, name, verdicts.count(name)) for name, (css, _) in _BADGE.items() if name in verdicts]


def _verdicts(run: Run) -> dict[str, Any] | None:
    """Claims by model, where there are several models."""
    table = verdict_table([claim for section in run.sections for claim in section.claims])
    if table is None:
        return None
    rows = []
    for name, statement, by_model in table.rows:
        claims = [by_model.get(model) for model in table.models]
        cells = [claim and {"source": claim, **_badge(claim)} for claim in claims]
        rows.append({"id": name, "statement": statement, "cells": cells})
    return {"models": table.models, "rows": rows, "sentences": table.sentences}


def _badge(claim: Claim) -> dict[str, str]:
    css, sign = _BADGE[claim.verdict]
    return {"css": css, "sign": sign}


def _claim(claim: Claim, section: Section) -> dict[str, Any]:
    return {
        "source": claim,
        "study": claim.study or section.study,
        **_badge(claim),
        "numbers": [(name, format_any(value)) for name, value in claim.numbers.items()],
    }


def _figure(figure: Figure, folder: Path) -> dict[str, Any]:
    picture = (folder / "figures" / f"{figure.id}.png").read_bytes()
    context = [f"{name} = {value}" for name, value in (("n", figure.n), ("T", figure.T)) if value is not None]
    return {
        "source": figure,
        "picture": "data:image/png;base64," + base64.b64encode(picture).decode("ascii"),
        "width": round(int.from_bytes(picture[16:20], "big") / PNG_DPI * _PIXELS_PER_INCH),
        "context": "; ".join([*context, *([figure.conventions] if figure.conventions else [])]),
    }


def _table(table: Table) -> dict[str, Any]:
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
        "groups": groups if any(name for name, _ in groups) else [],
        "heads": [column_heading(column, with_group=False) for column in table.columns],
        "rows": rows,
        "words": [
            any(isinstance(row[i].value, str) for row in table.cells) for i in range(len(table.columns))
        ],
        "context": context_line(table),
        "reference": _reference(table),
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


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A line a value, nested mappings by the path to it; what is empty or not set tells nothing and is left out."""
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        if value is None or value == {}:
            continue
        name = f"{prefix}{key}"
        lines += _flat(value, f"{name} · ") if isinstance(value, Mapping) else [(name, format_any(value))]
    return lines
