"""The paper's argument in eight sentences, filled from the studies that were run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from workflows.analysis.presentation import Cell, Claim, Run, Section, StoredResult, Table
from workflows.report.model_groups import GROUPS, REAL, group_of
from workflows.report.notation import format_number
from workflows.report.queries import of_item
from workflows.report.site.items import BADGE, badge
from workflows.report.site.places import command
from workflows.report.site.sources import source
from workflows.report.tables import CellText, cell_text

_DIGITS = 3


def argument(run: Run, drawn: Iterable[str]) -> list[dict[str, Any]]:
    """The sentences in order, each with verdicts by group of models, a figure and numbers, or how to fill it.

    Args:
      drawn: ids of the figures that have a picture.
    """
    by_study = {section.study: section for section in run.sections}
    pictures = set(drawn)
    return [_step(run, entry, by_study.get(entry["study"]), pictures) for entry in source("argument")]


def _step(run: Run, entry: Mapping[str, Any], section: Section | None, pictures: set[str]) -> dict[str, Any]:
    told = {"sentence": entry["sentence"], "place": entry["section"], "study": entry["study"]}
    fill = command(run, entry["study"], entry.get("models", ""))
    if section is None:
        return told | {"run": False, "command": fill}
    claims = [c for c in section.claims if any(fnmatchcase(c.base, pattern) for pattern in entry["claims"])]
    return told | {
        "run": True,
        "groups": verdicts_by_group(claims),
        "figure": _figure(section, entry["figures"], pictures),
        "numbers": _numbers(section, entry["numbers"]),
        "command": fill,
    }


def verdicts_by_group(claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """How many claims hold, fail and stay open in each group of models; a group without claims was not run."""
    found = []
    for group in GROUPS:
        own = [claim for claim in claims if claim.model and group_of(claim.model) == group]
        verdicts = [claim.verdict for claim in own]
        tally = [(badge(name), verdicts.count(name)) for name in BADGE if name in verdicts]
        labels = list(dict.fromkeys(claim.label or claim.model for claim in own))
        found.append({"name": group, "tally": tally, "models": labels, "claims": own})
    return found


def _figure(section: Section, wanted: Sequence[str], pictures: set[str]) -> Any:
    """The first of the wanted figures that was drawn; of several models' that of the most real one."""
    for base in wanted:
        own = [
            figure
            for figure in section.figures
            if figure.id in pictures
            and figure.id in {base, *(f"{base}-{result.key}" for result in section.results)}
        ]
        if own:
            return max(own, key=lambda figure: _realness(of_item(figure.id, section)))
    return None


def _realness(results: Sequence[StoredResult]) -> int:
    return max((GROUPS.index(group_of(result.model)) for result in results), default=GROUPS.index(REAL))


def _numbers(section: Section, wanted: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """A row a result, a column a number; None where no result has any of them."""
    rows = []
    for result in section.results:
        cells = [_number(section, result, spec) for spec in wanted]
        if any(cells):
            rows.append({"label": result.label, "n": result.n, "T": result.T, "cells": cells})
    heads = [
        str(spec["label"]).replace(" %", "\u00a0%") for spec in wanted
    ]  # a number keeps its sign beside it
    return {"heads": heads, "rows": rows} if rows else None


def _number(section: Section, result: StoredResult, spec: Mapping[str, Any]) -> CellText | None:
    if "claim" in spec:
        return _claim_number(section.claims, result, spec["claim"], spec["number"])
    for table in section.tables:
        named = table.id in (spec["table"], f"{spec['table']}-{result.key}")
        if named and result in of_item(table.id, section):
            found = _cell(table, result, spec["column"], spec.get("row", ""))
            if found is not None:
                return cell_text(found)
    return None


def _claim_number(claims: Sequence[Claim], result: StoredResult, pattern: str, name: str) -> CellText | None:
    for claim in claims:
        value = claim.numbers.get(name)
        if claim.result == result.name and fnmatchcase(claim.base, pattern) and isinstance(value, float):
            ends = claim.numbers.get(f"{name}_ci95")
            ends = ends if ends and all(map(math.isfinite, ends)) else None
            told = ", ".join(format_number(float(end), _DIGITS) for end in ends) if ends else ""
            return CellText(format_number(value, _DIGITS), interval=f"[{told}]" if told else "")
    return None


def _cell(table: Table, result: StoredResult, column: str, pattern: str) -> Cell | None:
    """The cell of a result's row, or of the last row that a pattern names among the rows of the result."""
    names = [shown.name for shown in table.columns]
    if column not in names:
        return None
    groups = table.row_groups or ("",) * len(table.rows)
    by_result = result.label in groups
    pattern = pattern.replace("{T}", str(result.T))
    found = None
    for index, row in enumerate(table.rows):
        mine = groups[index] == result.label or not by_result
        if mine and (fnmatchcase(row, pattern) if pattern else row == result.label):
            found = table.cells[index][names.index(column)]
    return found
