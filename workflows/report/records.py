"""Every number and every claim of a run as records, for results.json and claims.json."""

from __future__ import annotations

from typing import Any

from workflows.analysis.presentation import Figure, PaperValue, Run, Section, Table


def _paper_record(paper: PaperValue | None) -> dict[str, Any] | None:
    if paper is None:
        return None
    return {"value": paper.value, "spread": paper.spread, "provenance": paper.provenance, "note": paper.note}


def table_records(section: Section, table: Table) -> list[dict[str, Any]]:
    """Every number of a table, one record each."""
    return [
        _record(
            (section.study, table.id, table.row_key(index), column.name),
            cell,
            table,
            table.seed,
            column.proxy,
        )
        for index, cells in enumerate(table.cells)
        for column, cell in zip(table.columns, cells, strict=True)
    ]


def figure_records(section: Section, figure: Figure) -> list[dict[str, Any]]:
    """Every number behind a figure, one record each."""
    return [
        _record((section.study, figure.id, row.row, row.column), row, figure, None, figure.proxy)
        for row in figure.values
    ]


def _record(
    place: tuple[str, str, str, str], number: Any, item: Any, seed: int | None, proxy: str
) -> dict[str, Any]:
    study, name, row, column = place
    return {
        "study": study,
        "item": name,
        "row": row,
        "column": column,
        "value": number.value,
        "ci95": number.ci95,
        "spread": number.spread,
        "n": item.n if number.n is None else number.n,
        "T": item.T if number.T is None else number.T,
        "seed": seed if getattr(number, "seed", None) is None else number.seed,
        "floor": number.floor,
        "theory": number.theory,
        "conventions": getattr(number, "conventions", None) or item.conventions,
        "unit": number.unit,
        "proxy": proxy,
        "paper": _paper_record(number.paper),
    }


def claim_records(run: Run) -> list[dict[str, Any]]:
    """Every claim with its verdict and the numbers it was read from."""
    return [
        {
            "id": claim.id,
            "base": claim.base,
            "study": claim.study or section.study,
            "model": claim.model,
            "result": claim.result,
            "statement": claim.statement,
            "verdict": claim.verdict,
            "numbers": dict(claim.numbers),
            "explanation": claim.explanation,
        }
        for section in run.sections
        for claim in section.claims
    ]
