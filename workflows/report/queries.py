"""How every number of a table is read from the store: the expression, found by its value in the stored result.

A cell holds `float(result[name].sel(...)) * scale`; the same arithmetic on every stored number tells which one a cell
shows. What the report computes from several stored numbers has no such expression, and is counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workflows.analysis.presentation import Cell, Query, Section, StoredResult, Table

if TYPE_CHECKING:
    import xarray as xr

_LARGEST = 20_000  # entries of a variable; larger ones are pictures and curves
_SCALES = (1.0, 100.0, 1e3)  # what tables multiply stored numbers by


def of_item(item: str, section: Section) -> tuple[StoredResult, ...]:
    """The stored results that a table or figure shows: one where it is made for each result, else the section's all."""
    own = [result for result in section.results if item.endswith(f"-{result.key}")]
    if own:
        return tuple(own[:1])
    names = [shown.id for shown in (*section.tables, *section.figures)]
    drawn_once_each = any(f"{item}-{result.key}" in names for result in section.results)
    return section.results[:1] if drawn_once_each else section.results


def queries_of(section: Section, stored: Mapping[str, xr.Dataset], store: str) -> dict[str, Query]:
    """For every table with a number that is stored, how to read it; for every figure, what it is drawn from.

    Args:
      stored: the results by name, as the store has them.
      store: the store, as the code is to name it.
    """
    shown = {
        value
        for table in section.tables
        for row in table.cells
        for c in row
        if (value := _value(c)) is not None
    }
    indices = {result.name: _Index.of(stored[result.name], shown) for result in section.results}
    found = {}
    for table in section.tables:
        query = _query(table, [(r, indices[r.name]) for r in of_item(table.id, section)], store)
        if query.numbers:
            found[table.id] = query
    for figure in section.figures:
        if results := of_item(figure.id, section):
            found[figure.id] = Query(
                _opening(dict(zip(_names(len(results)), results, strict=True)), store), ()
            )
    return found


def _names(count: int) -> list[str]:
    """What the code calls so many results."""
    return ["result"] if count == 1 else [f"result_{i}" for i in range(count)]


def _opening(results: Mapping[str, StoredResult], store: str) -> str:
    """The code that opens the store and gives results their names."""
    lines = ["import taba_core", "", f"tree = taba_core.open_store({store!r})"]
    return "\n".join(lines + [f'{name} = tree["{r.name}"].to_dataset()' for name, r in results.items()])


def _value(cell: Cell) -> float | None:
    """The number of a cell, None for a text and what is not defined or not computed."""
    if cell.value is None or isinstance(cell.value, str) or not math.isfinite(cell.value):
        return None
    return float(cell.value)


def _query(table: Table, results: Sequence[tuple[StoredResult, _Index]], store: str) -> Query:
    numbers, others, used = [], 0, set()
    names = _names(len(results))
    for index, cells in enumerate(table.cells):
        for column, cell in zip(table.columns, cells, strict=True):
            value = _value(cell)
            if value is None:
                continue
            row = table.row_key(index)
            words = f"{row} {column.name} {column.label} {column.group}".lower().replace("_", " ")
            labels = [result.label for result, _ in results]
            for i in _likely_first(labels, f"{row}, {column.label}, {column.group}"):
                if place := results[i][1].best(value, words):
                    numbers.append(
                        (f"{row}, {column.label or column.name}", place.expression(names[i]), value)
                    )
                    used.add(i)
                    break
            else:
                others += 1
    opening = _opening({names[i]: results[i][0] for i in sorted(used)}, store)
    return Query(opening, tuple(numbers), others)


def _likely_first(labels: Sequence[str], text: str) -> list[int]:
    """Only the results whose label the row or column says, by the longest such label; all where it says none."""
    said = [len(label) if label in text else 0 for label in labels]
    named = [i for i, length in enumerate(said) if length and length == max(said)]
    return named or list(range(len(labels)))


@dataclass(frozen=True)
class _Place:
    """Where a number lies: variable, its dimensions with labels (None: no unique one) and indices, and the scale."""

    name: str
    where: tuple[tuple[str, Any, int], ...]
    scale: float

    def said(self, words: str) -> int:
        """How many of its names the words of a row and column say."""
        told = [*self.name.split("_"), *(str(label) for _, label, _ in self.where if label is not None)]
        return sum(word.lower().replace("_", " ") in words for word in told)

    def expression(self, variable: str) -> str:
        """The Python that reads the number from a result."""
        labels = ", ".join(f"{dim!r}: {label!r}" for dim, label, _ in self.where if label is not None)
        indices = ", ".join(f"{dim!r}: {index}" for dim, label, index in self.where if label is None)
        text = f"{variable}[{self.name!r}]"
        text += f".sel({{{labels}}})" if labels else ""
        text += f".isel({{{indices}}})" if indices else ""
        return f"float({text})" + ("" if self.scale == 1.0 else f" * {self.scale:g}")


@dataclass(frozen=True)
class _Index:
    """Where the wanted numbers lie in a result."""

    places: Mapping[float, Sequence[_Place]]

    @classmethod
    def of(cls, result: xr.Dataset, wanted: set[float]) -> _Index:
        """Look for the wanted numbers in every variable of moderate size, as they are and as tables scale them."""
        found: dict[float, list[_Place]] = {}
        for name, array in result.data_vars.items():
            if array.size > _LARGEST or array.dtype.kind not in "fiu":
                continue
            values, labels = np.asarray(array.values, dtype=float), _labels(array)
            for scale in _SCALES:
                scaled = values * scale
                for position in np.argwhere(np.isin(scaled, list(wanted))).tolist():
                    where = tuple((dim, own[i], i) for (dim, own), i in zip(labels, position, strict=True))
                    place = _Place(str(name), where, scale)
                    found.setdefault(float(scaled[tuple(position)]), []).append(place)
        return cls(found)

    def best(self, value: float, words: str) -> _Place | None:
        """Of the places with a value the one that the words name most; a whole number needs to be named."""
        places = self.places.get(value, ())
        if not places:
            return None
        best = max(places, key=lambda place: (place.said(words), place.scale == 1.0, -len(place.name)))
        return best if best.said(words) or not value.is_integer() else None


def _labels(array: xr.DataArray) -> list[tuple[str, list[Any]]]:
    """The dimensions of an array with the labels of their entries, None for one without a label of its own."""
    found: list[tuple[str, list[Any]]] = []
    for dim, size in zip(array.dims, array.shape, strict=True):
        coordinate = array.coords.get(dim)
        labels = [None] * size if coordinate is None else coordinate.values.tolist()
        unique = len(set(labels)) == size
        found.append((str(dim), labels if unique else [None] * size))
    return found
