"""The page of methods: one row a method with the measures that compare them, of every result of study `methods`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from workflows.analysis.presentation import DASH, Cell, Column, Figure, Run, Section, Table
from workflows.report.queries import of_item

STUDY = "methods"
# Table of the study, its columns that the scorecard has, and the heading over them.
_PARTS = (
    ("methods-accuracy", ("evaluations", "seconds"), "Cost"),
    ("methods-gaussianity", ("correlation", "excess_r2", "kl_excess", "std"), "Are latents noise?"),
    ("methods-regions", ("error@plain", "std_region@plain"), "In plain areas"),
    ("methods-accuracy", ("mae", "psnr", "lpips"), "Reconstruction"),
)
_PICTURES = "methods-tradeoff"


def scorecards(run: Run) -> list[dict[str, Any]]:
    """Of every result of the study: its label, the scorecard (None if a part is missing) and the trade-off pictures."""
    section = next((s for s in run.sections if s.study == STUDY), None)
    if section is None:
        return []
    found = []
    for result in section.results:
        mine = {t.id: t for t in section.tables if result in of_item(t.id, section)}
        own = {name: mine.get(f"{name}-{result.key}") or mine.get(name) for name, *_ in _PARTS}
        pictures = [f for f in section.figures if _is_picture(f, section, result)]
        tables = {name: table for name, table in own.items() if table is not None}
        found.append({"result": result, "table": _joined(tables, result.key), "pictures": pictures})
    return found


def _is_picture(figure: Figure, section: Section, result: Any) -> bool:
    return figure.id.startswith(_PICTURES) and result in of_item(figure.id, section)


def _joined(tables: dict[str, Table], key: str) -> Table | None:
    """The chosen columns of several tables side by side, a row for every method that one of them has."""
    if not tables:
        return None
    columns: list[Column] = []
    cells: dict[tuple[str, str], list[Cell]] = {}
    first = next(iter(tables.values()))
    for name, chosen, heading in _PARTS:
        table = tables.get(name)
        names = [c.name for c in table.columns] if table else []
        for column in (c for c in chosen if c in names):
            assert table is not None
            at = names.index(column)
            shown = table.columns[at]
            label = f"{shown.group}: {shown.label}" if "@" in column and shown.group else shown.label
            columns.append(replace(shown, label=label, group=heading))
            groups = table.row_groups or ("",) * len(table.rows)
            for row, group, values in zip(table.rows, groups, table.cells, strict=True):
                line = cells.setdefault((group, row), [])
                line += [DASH] * (len(columns) - 1 - len(line))
                # The row of noise says what the floor is, and the whole tables the rest.
                line.append(replace(values[at], floor=None, spread=None))
    rows = [
        (group, row, [*line, *[DASH] * (len(columns) - len(line))]) for (group, row), line in cells.items()
    ]
    rows.sort(key=lambda row: row[0] != "")  # what is in no group (noise) first; stable within
    return Table(
        id=f"scorecard-{key}",
        title="Scorecard of inversion methods",
        caption="A row a method. A click on a heading sorts by its column.",
        rows=tuple(row for _, row, _ in rows),
        row_groups=tuple(group for group, _, _ in rows),
        columns=tuple(columns),
        cells=tuple(tuple(line) for _, _, line in rows),
        row_header="Method",
        conventions=first.conventions,
        n=first.n,
        T=first.T,
        seed=first.seed,
    )
