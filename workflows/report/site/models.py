"""What a report says of one model: its claims, and its rows of every table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from workflows.analysis.presentation import Figure, Model, Run, Section, Table
from workflows.report.model_groups import GROUPS, group_of
from workflows.report.queries import of_item
from workflows.report.site.items import BADGE, badge, claim_view


def by_group(models: Sequence[Model]) -> list[tuple[str, list[Model]]]:
    """The models of each group that has some."""
    found = [(group, [model for model in models if group_of(model.name) == group]) for group in GROUPS]
    return [(group, own) for group, own in found if own]


def studies_of(run: Run, model: Model) -> list[dict[str, Any]]:
    """What every study found on a model: claims, the tables that are its own, its rows of others, its figures."""
    found = []
    for section in run.sections:
        claims = [claim for claim in section.claims if claim.model == model.name]
        tables = [own for table in section.tables if (own := rows_of(table, section, model.name)) is not None]
        if claims or tables:
            found.append(
                {
                    "section": section,
                    "claims": [claim_view(claim) for claim in claims],
                    "tables": tables,
                    "figures": _figures(section, model.name),
                }
            )
    return found


def tally(run: Run, model: Model) -> list[tuple[dict[str, str], int]]:
    """How many claims of a model hold, fail and stay open."""
    verdicts = [claim.verdict for claim in run.claims if claim.model == model.name]
    return [(badge(name), verdicts.count(name)) for name in BADGE if name in verdicts]


def rows_of(table: Table, section: Section, model: str) -> Table | None:
    """The part of a table that is about a model: all of a table of its own, else its rows or columns, None if none."""
    shown = of_item(table.id, section)
    mine = [result.label for result in shown if result.model == model]
    if not mine:
        return None
    if len(mine) == len(shown):
        return table
    groups = table.row_groups or ("",) * len(table.rows)
    rows = [i for i, row in enumerate(table.rows) if row in mine or groups[i] in mine]
    if rows:
        return replace(
            table,
            rows=tuple(table.rows[i] for i in rows),
            cells=tuple(table.cells[i] for i in rows),
            row_groups=tuple(groups[i] for i in rows) if table.row_groups else (),
            notes=(),
        )
    columns = [i for i, c in enumerate(table.columns) if c.label in mine or c.group in mine]
    if not columns:
        return None
    return replace(
        table,
        columns=tuple(table.columns[i] for i in columns),
        cells=tuple(tuple(row[i] for i in columns) for row in table.cells),
        notes=(),
    )


def _figures(section: Section, model: str) -> list[Figure]:
    return [
        figure
        for figure in section.figures
        if (shown := of_item(figure.id, section)) and all(result.model == model for result in shown)
    ]
