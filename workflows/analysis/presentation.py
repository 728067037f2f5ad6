"""What a study hands to the report: tables, figures, claims and sections, as plain frozen data.

Studies build these objects from reduced statistics; `workflows.report` turns them into files. Nothing here
imports anything heavy, and every number carries its context (interval, floor, n, T, conventions, the paper's
value), so that no renderer can lose it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from taba_core.verdicts import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

Provenance = Literal["certain", "probable", "secondary"]

PROVENANCE_MEANING: Mapping[str, str] = {
    "certain": "digits quoted from the paper, and the cell they belong to is certain",
    "probable": "digits quoted from the paper; which cell they belong to is inferred",
    "secondary": "not in the paper's recovered text: a third party's note on a later version, rounded",
}
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def _check_id(what: str, value: str) -> None:
    if not _FILE_NAME.fullmatch(value):
        raise ValueError(f"{what} id {value!r} names a file; use letters, digits, '-', '_' and '.'.")


@dataclass(frozen=True)
class PaperValue:
    """A number printed in the paper; `spread` is its ± where it has one, `place` its table, row and column."""

    value: float
    spread: float | None
    provenance: Provenance
    note: str = ""
    place: tuple[str, str, str] | None = None

    def __post_init__(self) -> None:
        if self.provenance not in get_args(Provenance):
            raise ValueError(f"provenance {self.provenance!r}; use one of {', '.join(get_args(Provenance))}.")


@dataclass(frozen=True)
class Cell:
    """One value of a table with everything needed to read it.

    Attributes:
      value: the number, a text, or None for a dash ("not defined here"). NaN means "not computed".
      ci95: 95 % interval of the value.
      spread: the paper's ± (a spread over patches or pairs, not an error of the value).
      floor: expected value under the null at this n (white noise, identical distributions).
      theory: closed-form value where one exists.
      paper: the paper's value for the same model and setting.
      digits: decimals shown. unit: of the value; empty when dimensionless.
      n, T, seed, conventions: images, steps, seed and choices behind this cell; None = the table's own.
    """

    value: float | str | None
    ci95: tuple[float, float] | None = None
    spread: float | None = None
    floor: float | None = None
    theory: float | None = None
    paper: PaperValue | None = None
    digits: int = 3
    unit: str = ""
    bold: bool = False
    n: int | None = None
    T: int | None = None
    seed: int | None = None
    conventions: str | None = None


DASH = Cell(None)


@dataclass(frozen=True)
class Column:
    """A column: `name` is its key in files (unique in the table), `label` and `symbol` are what is shown.

    `group` is the heading shared by neighbouring columns. `proxy` names the metric this column stands in for
    (weights missing); a proxy is labelled wherever it is shown.
    """

    name: str
    label: str
    symbol: str = ""
    group: str = ""
    proxy: str = ""


@dataclass(frozen=True)
class Reference:
    """Rows that others published, shown folded away under a table and never among its cells.

    Attributes:
      title: where they were published.
      setting: what they were made with, and in which units they are printed.
      rows: values by row and column, as they were printed.
    """

    title: str
    setting: str
    rows: Mapping[str, Mapping[str, PaperValue]]


@dataclass(frozen=True)
class Table:
    """A table: `cells[i][j]` belongs to `rows[i]` and `columns[j]`.

    Attributes:
      id: "table2"; names the files. The digits select the paper's reference rows (`workflows.analysis.published`).
      caption: the question it answers, plain text with unicode mathematics.
      row_header: what the rows are ("Model"). row_groups: heading above a row, one per row, "" for none;
        repeated headings are shown once.
      conventions: the choices behind the numbers, one line.
      n, T, seed: images, sampling steps, seed; None where they do not apply or differ by cell.
      reference: published rows of others for reading beside ours.
    """

    id: str
    title: str
    caption: str
    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    cells: tuple[tuple[Cell, ...], ...]
    row_header: str = "Model"
    conventions: str = ""
    n: int | None = None
    T: int | None = None
    seed: int | None = None
    notes: tuple[str, ...] = ()
    row_groups: tuple[str, ...] = ()
    reference: Reference | None = None

    def __post_init__(self) -> None:
        _check_id("table", self.id)
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ValueError(f"{self.id}: column names must be unique, got {names}.")
        keys = list(zip(self.row_groups or ("",) * len(self.rows), self.rows, strict=False))
        if len(set(keys)) != len(keys):
            raise ValueError(f"{self.id}: rows must be unique within their group, got {list(self.rows)}.")
        shape = (len(self.rows), *{len(row) for row in self.cells})
        if len(self.cells) != len(self.rows) or any(len(row) != len(names) for row in self.cells):
            raise ValueError(f"{self.id}: cells are {shape}, labels are ({len(self.rows)}, {len(names)}).")
        # A cell states its context only where it differs from the table's.
        own = tuple(tuple(self._without_common(cell) for cell in row) for row in self.cells)
        object.__setattr__(self, "cells", own)
        if self.row_groups and len(self.row_groups) != len(self.rows):
            raise ValueError(f"{self.id}: {len(self.row_groups)} row groups for {len(self.rows)} rows.")

    def _without_common(self, cell: Cell) -> Cell:
        shared = ("n", "T", "seed", "conventions")
        return replace(cell, **{k: None for k in shared if getattr(cell, k) == getattr(self, k)})

    def row_key(self, index: int) -> str:
        """Name of a row in files: its label, after its group's where it has one."""
        group = self.row_groups[index] if self.row_groups else ""
        return f"{group} / {self.rows[index]}" if group else self.rows[index]

    def cell(self, row: str, column: str) -> Cell:
        """The cell of a row key (see `row_key`) and a column name; KeyError if there is none."""
        keys = [self.row_key(i) for i in range(len(self.rows))]
        names = [c.name for c in self.columns]
        if row not in keys or column not in names:
            raise KeyError(f"{self.id} has no cell ({row!r}, {column!r}); rows {keys}, columns {names}.")
        return self.cells[keys.index(row)][names.index(column)]


@dataclass(frozen=True)
class Row:
    """One number behind a figure, as it goes to results.json."""

    row: str
    column: str
    value: float | str | None
    ci95: tuple[float, float] | None = None
    spread: float | None = None
    floor: float | None = None
    theory: float | None = None
    paper: PaperValue | None = None
    unit: str = ""
    n: int | None = None
    T: int | None = None


@dataclass(frozen=True)
class Figure:
    """A figure: `draw()` returns a matplotlib figure (`workflows.report.plots`); `values` are its numbers.

    `draw` must be deterministic: a second report of the same store gives the same bytes.
    """

    id: str
    title: str
    caption: str
    draw: Callable[[], Drawing]
    n: int | None = None
    T: int | None = None
    conventions: str = ""
    values: tuple[Row, ...] = ()
    proxy: str = ""

    def __post_init__(self) -> None:
        _check_id("figure", self.id)


@dataclass(frozen=True)
class Claim:
    """An inequality of the paper, tested on an interval and never on a point value.

    `numbers` are what the verdict was read from; `explanation` says why a claim fails or stays unresolved. `id` is
    unique in a report: the claim's own id (`base`), and for all but the first result of a study the result's title
    (`label`) after it.
    """

    id: str
    statement: str
    verdict: Verdict
    numbers: Mapping[str, Any] = field(default_factory=dict)
    explanation: str = ""
    study: str = ""
    model: str = ""
    result: str = ""
    base: str = ""
    label: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", self.base or self.id)
        if self.verdict not in get_args(Verdict):
            known = ", ".join(get_args(Verdict))
            raise ValueError(f"claim {self.id}: verdict {self.verdict!r}; use one of {known}.")


@dataclass(frozen=True)
class Failure:
    """A part of the report that could not be made; everything else is."""

    kind: Literal["table", "figure", "study"]
    id: str
    study: str
    title: str
    error: str
    traceback: str = ""

    @classmethod
    def of(
        cls, kind: Literal["table", "figure", "study"], id: str, study: str, title: str, error: Exception
    ) -> Failure:
        """What went wrong, as one line and as the lines a developer reads."""
        import traceback

        text = " ".join(f"{type(error).__name__}: {error}".split())
        return cls(kind, id, study, title, text, "".join(traceback.format_exception(error)))

    @property
    def line(self) -> str:
        """One sentence for a terminal."""
        whole = self.kind == "study"
        name = f"study {self.study}" if whole else f"{self.kind} {self.id} of study {self.study}"
        return f"{name} could not be made ({self.error})."


@dataclass(frozen=True)
class StoredResult:
    """A result in the store, as pages name it.

    Attributes:
      name: of its group in the store. label: what rows of tables call it. key: what ends the ids of its own items.
      model, n, T: what it was made with.
    """

    name: str
    model: str
    label: str
    n: int
    T: int

    @property
    def key(self) -> str:
        """The end of the name, which tells results of a model and study apart."""
        return self.name.rsplit("-", 1)[-1]


@dataclass(frozen=True)
class Query:
    """Code that reads the numbers of a table, or the results a figure is drawn from, from the store.

    Attributes:
      opening: lines of Python that open the store and find the results.
      numbers: (row and column, expression after `opening`, value) of every number that is stored as it is shown.
      others: numbers that are not, because the report computes them from stored ones.
    """

    opening: str
    numbers: tuple[tuple[str, str, float], ...]
    others: int = 0


@dataclass(frozen=True)
class Section:
    """One study in the report: its question, then tables, figures and claims.

    `paper_section` ("3.1") orders the report. `note` is shown above the tables (partial runs, proxies), `failure`
    in their place where the study could not present itself. `documents` are JSON files of the report's folder by name,
    without the suffix: what is to be handed on, not shown. `results` are what it was made from, and `queries` how the
    numbers of its tables and figures are read from the store, by their ids.
    """

    study: str
    title: str
    question: str
    paper_section: str = ""
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    claims: tuple[Claim, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    failure: Failure | None = None
    documents: Mapping[str, Any] = field(default_factory=dict)
    results: tuple[StoredResult, ...] = ()
    queries: Mapping[str, Query] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_id("study", self.study)
        for name in self.documents:
            _check_id("document", name)


@dataclass(frozen=True)
class Model:
    """A model that a report is about: its name, title, and the facts of its card, (what, value) each."""

    name: str
    title: str
    facts: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Run:
    """Everything one report shows.

    Attributes:
      summary: one or two sentences under the title.
      store: where the results are, as commands name it.
      models: those that results are of.
      provenance: flat or nested mapping printed at the end: command, versions, machine, seconds, store, ...;
        "runs" in it is a mapping from a line about each run to all that is known of it, folded away.
    """

    title: str
    sections: tuple[Section, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    summary: str = ""
    store: str = "STORE"
    models: tuple[Model, ...] = ()

    def __post_init__(self) -> None:
        items = [t.id for s in self.sections for t in s.tables]
        items += [f.id for s in self.sections for f in s.figures]
        twice = sorted({i for i in items if items.count(i) > 1})
        if twice:
            raise ValueError(f"two items of the report share the id {', '.join(twice)}; ids name files.")

    @property
    def claims(self) -> tuple[Claim, ...]:
        """All claims in the order of the sections."""
        return tuple(claim for section in self.sections for claim in section.claims)
