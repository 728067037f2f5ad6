"""How every number of a table is read from the store: the expression, found by its value in the stored result.

A cell holds `float(result[name].sel(...)) * scale`; the same arithmetic on every stored number tells which one a cell
shows. What the report computes from several stored numbers has no such expression, and is counted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workflows.analysis.presentation import Query, Section, StoredResult, Table

if TYPE_CHECKING:
    import xarray as xr

_LARGEST = 20_000  # entries of a variable; larger ones are pictures and curves
_SCALES = (1.0, 100.0, 1e3)  # what tables multiply stored numbers by
_Place = tuple[str, tuple[int, ...], float]


def of_item(item: str, section: Section) -> tuple[StoredResult, ...]:
    """The results that a table or figure shows: of those drawn once a result its own, else all of the section's."""
    own = [result for result in section.results if item.endswith(f"-{result.key}")]
    if own:
        return tuple(own[:1])
    names = [shown.id for shown in (*section.tables, *section.figures)]
    drawn_once_each = any(f"{item}-{result.key}" in names for result in section.results)
    return section.results[:1] if drawn_once_each else section.results


def queries_of(section: Section, stored: Mapping[str, xr.Dataset], store: str) -> dict[str, Query]:
    """For every table with a number that is stored: how to read it.

    Args:
      stored: the results by name, as the store has them.
      store: the store, as the code is to name it.
    """
    found = {}
    indices: dict[str, dict[float, list[_Place]]] = {}
    for table in section.tables:
        shown = of_item(table.id, section)
        for result in shown:
            if result.name not in indices:
                indices[result.name] = _index(stored[result.name])
        query = _query(table, [(result, stored[result.name]) for result in shown], indices, store)
        if query.numbers:
            found[table.id] = query
    return found


def _query(
    table: Table,
    results: Sequence[tuple[StoredResult, xr.Dataset]],
    indices: Mapping[str, Mapping[float, Sequence[_Place]]],
    store: str,
) -> Query:
    numbers, others, used = [], 0, []
    names = [f"result_{i}" if len(results) > 1 else "result" for i in range(len(results))]
    for index, cells in enumerate(table.cells):
        for column, cell in zip(table.columns, cells, strict=True):
            value = cell.value
            if isinstance(value, str) or value is None or not math.isfinite(value):
                continue
            row = table.row_key(index)
            words = f"{row} {column.name} {column.label} {column.group}".lower()
            order = _likely_first(results, f"{row}, {column.label}, {column.group}")
            expression = None
            for i in order:
                result, data = results[i]
                if place := _best(indices[result.name].get(float(value), ()), data, words, float(value)):
                    expression = _expression(names[i], data, place)
                    used.append(i)
                    break
            if expression is None:
                others += 1
            else:
                numbers.append((f"{row}, {column.label or column.name}", expression, float(value)))
    lines = ["import taba_core", "", f"tree = taba_core.open_store({store!r})"]
    lines += [f'{names[i]} = tree["{results[i][0].name}"].to_dataset()' for i in sorted(set(used))]
    return Query("\n".join(lines), tuple(numbers), others)


def _likely_first(results: Sequence[tuple[StoredResult, xr.Dataset]], text: str) -> list[int]:
    """Results whose label the row or column says come first, the longest label before others."""
    said = [len(result.label) if result.label in text else 0 for result, _ in results]
    named = [i for i, length in enumerate(said) if length and length == max(said)]
    return named or list(range(len(results)))


def _index(result: xr.Dataset) -> dict[float, list[_Place]]:
    """Where every stored number lies, by what a table may show of it."""
    found: dict[float, list[_Place]] = {}
    for name, array in result.data_vars.items():
        if array.size > _LARGEST or array.dtype.kind not in "fiu":
            continue
        values = np.asarray(array.values, dtype=float)
        for position in itertools.product(*map(range, values.shape)):
            value = float(values[position])
            if math.isfinite(value):
                for scale in _SCALES:
                    found.setdefault(value * scale, []).append((str(name), position, scale))
    return found


def _best(places: Sequence[_Place], result: xr.Dataset, words: str, value: float) -> _Place | None:
    """Of the places with a value the one whose names the row and column say; whole numbers need to be named."""

    def named(place: _Place) -> int:
        name, position, _ = place
        labels = [_label(result, name, dim, i) for dim, i in zip(result[name].dims, position, strict=True)]
        told = [str(label) for label in (*labels, *name.split("_")) if label is not None]
        return sum(word.lower().replace("_", " ") in words.replace("_", " ") for word in told)

    if not places:
        return None
    best = max(places, key=lambda place: (named(place), place[2] == 1.0, -len(place[0])))
    return best if named(best) or not value.is_integer() else None


def _label(result: xr.Dataset, name: str, dim: Any, index: int) -> Any:
    coordinate = result[name].coords.get(dim)
    return None if coordinate is None else coordinate.values[index].item()


def _expression(variable: str, result: xr.Dataset, place: _Place) -> str:
    name, position, scale = place
    by_label, by_index = [], []
    for dim, index in zip(result[name].dims, position, strict=True):
        label = _label(result, name, dim, index)
        if label is None or list(result[name].coords[dim].values).count(label) > 1:
            by_index.append(f"{dim!r}: {index}")
        else:
            by_label.append(f"{dim!r}: {label!r}")
    text = f"{variable}[{name!r}]"
    text += f".sel({{{', '.join(by_label)}}})" if by_label else ""
    text += f".isel({{{', '.join(by_index)}}})" if by_index else ""
    return f"float({text})" + ("" if scale == 1.0 else f" * {scale:g}")
