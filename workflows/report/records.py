"""Every number and every claim of a run as records, for results.json and claims.json."""

from __future__ import annotations

from typing import Any

from workflows.analysis.presentation import PaperValue, Run


def _paper_record(paper: PaperValue | None) -> dict[str, Any] | None:
    if paper is None:
        return None
    return {"value": paper.value, "spread": paper.spread, "provenance": paper.provenance, "note": paper.note}


def result_records(run: Run) -> list[dict[str, Any]]:
    """Every number of the tables and figures, one record each, in the order of the report."""
    records = []
    for section in run.sections:
        for table in section.tables:
            for index, cells in enumerate(table.cells):
                for column, cell in zip(table.columns, cells, strict=True):
                    place = (section.study, table.id, table.row_key(index), column.name)
                    records.append(_record(place, cell, table, table.seed, column.proxy))
        for figure in section.figures:
            for row in figure.values:
                place = (section.study, figure.id, row.row, row.column)
                records.append(_record(place, row, figure, None, figure.proxy))
    return records


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
