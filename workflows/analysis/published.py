"""The paper's own numbers, looked up by exact names; nothing is matched approximately.

Source: `workflows/analysis/data/paper-values.json`, a list of {table, row, column, value, pm, note}. A value belongs
to a study's cell only if the model and the setting are the same, so models the paper did not run have none.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflows.analysis.presentation import PaperValue, Provenance

_DATA = Path(__file__).parent / "data" / "paper-values.json"

# Pixels of a side. Where the paper has a figure of ADM-64 and one of ADM-32, the first is of images of so many or more.
LARGE_SIDE = 64

# The studies' column names for the paper's column headings.
_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "2": {"noise": "Noise", "latent": "Latent", "sample": "Sample", "image": "Sample"},
    "3": {
        "error_plain": "Absolute Error / Plain",
        "error_non_plain": "Absolute Error / Non-plain",
        "std_plain": "Standard Deviation / Plain",
        "std_non_plain": "Standard Deviation / Non-plain",
    },
    "9": {"kl": "KL", "reconstruction": "Image Recon."},
}

# The paper prints these in a unit of its own (inferred from the noise rows, which are the floor 2/n).
_UNITS: Mapping[tuple[str, str], float] = {("7", "KL"): 1e-2, ("9", "KL"): 1e-4}

PAPER_SETTINGS: Mapping[str, str] = {
    "2": "T = 100; n = 8192 (SDXL 10240), inferred from the noise column, which equals the floor at that n",
    "3": "T = 100; n = 8192, as Table 2",
    "5": "T = 50; DiT n = 10240, IF n = 5120; PNG bits per pixel",
    "7": "SDXL, T = 50; n = 2048, inferred from the noise row",
    "9": "T = 1000; n = 4096, inferred from the noise rows",
}


# (n, T) of the paper's tables, and of models that have another n there, as PAPER_SETTINGS says them.
_RUNS: Mapping[str, tuple[int, int]] = {
    "2": (8192, 100),
    "2 / SDXL": (10240, 100),
    "3": (8192, 100),
    "5 / DiT": (10240, 50),
    "5 / IF": (5120, 50),
    "7": (2048, 50),
    "9": (4096, 1000),
}


@dataclass(frozen=True)
class PaperEntry:
    """One printed value with the paper's own row and column headings."""

    row: str
    column: str
    value: PaperValue


def _provenance(note: str) -> Provenance:
    if "NOT in the seed" in note or "lost in the seed" in note:
        return "secondary"
    if re.search(r"\bprobable\b|NOT certain|attributed to", note):
        return "probable"
    return "certain"


def _public_note(note: str) -> str:
    # The data file calls the recovered text of the paper "the seed"; a reader of a report does not know that.
    note = note.replace("NOT in the seed: ", "not in the recovered text of the paper: ")
    note = note.replace("value lost in the seed", "value lost in the recovered text of the paper")
    return note.replace("seed text, exact", "exact digits of the paper's text")


def _entry(record: Mapping[str, Any]) -> PaperEntry:
    unit = _UNITS.get((record["table"], record["column"]), 1.0)
    note = _public_note(record["note"])
    if unit != 1.0:
        note = f"printed as {record['value']:g} in units of {unit:g}; {note}"
    scaled = float(f"{record['value'] * unit:.12g}")  # 4.832 * 1e-4 without binary dust
    spread = None if record["pm"] is None else float(f"{record['pm'] * unit:.12g}")
    place = (record["table"], record["row"], record["column"])
    value = PaperValue(scaled, spread, _provenance(record["note"]), note, place)
    return PaperEntry(record["row"], record["column"], value)


@functools.cache
def _entries() -> Mapping[str, tuple[PaperEntry, ...]]:
    tables: dict[str, list[PaperEntry]] = {}
    for record in json.loads(_DATA.read_text(encoding="utf-8")):
        tables.setdefault(record["table"], []).append(_entry(record))
    return {table: tuple(entries) for table, entries in tables.items()}


def table_number(table: str) -> str:
    """The paper's table of an id: "table2" and "2" are "2"; other ids are returned as they are."""
    match = re.fullmatch(r"table(\d+).*", table)
    return match.group(1) if match else table


def paper_rows(table: str) -> tuple[PaperEntry, ...]:
    """All recovered values of one of the paper's tables ("table2" or "2"), in the file's order.

    Values are in base units (the KL of Tables 7 and 9 is printed in 1e-2 and 1e-4).
    """
    return _entries().get(table_number(table), ())


def paper_run(place: tuple[str, str, str]) -> tuple[int, int] | None:
    """(n, T) that the paper's number at a place (table, row, column) was measured with, as far as it can be told."""
    table, row, _ = place
    return _RUNS.get(f"{table} / {row.split(' / ')[0]}", _RUNS.get(table))


def recovered() -> tuple[PaperEntry, ...]:
    """Every recovered number of the paper, in the file's order."""
    return tuple(entry for entries in _entries().values() for entry in entries)


def paper_value(table: str, row: str, column: str) -> PaperValue | None:
    """The paper's value for exactly this row and column, or None.

    Args:
      table: "table2" or "2".
      row: the model's title as the paper prints it ("ADM-64"); for Table 9 the full row name.
      column: the paper's heading ("Latent") or the study's column name ("latent").
    """
    heading = _COLUMNS.get(table_number(table), {}).get(column, column)
    for entry in paper_rows(table):
        if entry.row == row and entry.column == heading:
            return entry.value
    return None
