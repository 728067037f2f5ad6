"""A table as CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from dataclasses import dataclass

from workflows.analysis.presentation import PROVENANCE_MEANING, Cell, Column, Table
from workflows.report.notation import format_number, to_latex

PROVENANCE_MARK = {"certain": "c", "probable": "p", "secondary": "s"}
_CSV_FIELDS = ("low", "high", "spread", "floor", "theory", "paper")


@dataclass(frozen=True)
class CellText:
    """A cell as shown: the value, its ±, its interval, and what it is compared with."""

    value: str
    spread: str = ""
    interval: str = ""
    floor: str = ""
    theory: str = ""
    paper: str = ""
    mark: str = ""
    note: str = ""
    unit: str = ""
    own: str = ""

    def comparisons(self) -> list[str]:
        """Floor, theory, paper and the cell's own n and T as short texts, those that exist."""
        paper = f"paper {self.paper} ({self.mark})" if self.paper else ""
        parts = (
            self.floor and f"floor {self.floor}",
            self.theory and f"theory {self.theory}",
            paper,
            self.own,
        )
        return [part for part in parts if part]


def cell_text(cell: Cell, said: str = "", conventions: str = "") -> CellText:
    """Round everything in a cell to its digits; a dash for "not defined", n/a for "not computed".

    Args:
      said: what the row already says beside the cell; an n, T or seed told there ("T = 50") is not repeated.
      conventions: what is printed under the table; of the cell's own choices those that stand there are not repeated.
    """
    own_choices = _not_in(cell.conventions, conventions)
    context = (("n", cell.n), ("T", cell.T), ("seed", cell.seed), ("", own_choices))
    own = ", ".join(
        f"{name} = {v}" if name else str(v)
        for name, v in context
        if v is not None and not (name and re.search(rf"\b{name} = {v}\b(?!\.)", said))
    )
    if cell.value is None or isinstance(cell.value, str):
        return CellText(cell.value or "–", unit=cell.unit, own=own)

    def show(value: float | None) -> str:
        return "" if value is None else format_number(value, cell.digits)

    known = cell.ci95 is not None and not any(math.isnan(bound) for bound in cell.ci95)
    interval = f"[{show(cell.ci95[0])}, {show(cell.ci95[1])}]" if cell.ci95 and known else ""
    paper, mark, note = "", "", ""
    if cell.paper:
        paper = show(cell.paper.value)
        paper += f" ± {show(cell.paper.spread)}" if cell.paper.spread is not None else ""
        mark, note = PROVENANCE_MARK[cell.paper.provenance], cell.paper.note
    spread = f"± {show(cell.spread)}" if cell.spread is not None else ""
    shown = format_number(float(cell.value), cell.digits)
    compared = (show(cell.floor), show(cell.theory), paper, mark, note)
    return CellText(shown, spread, interval, *compared, cell.unit, own)


def _not_in(own: str | None, common: str) -> str | None:
    """The choices of a cell that its table does not state, or all where it only states fewer."""
    if own is None:
        return None
    stated = common.split(", ")
    return ", ".join(choice for choice in own.split(", ") if choice not in stated) or own


def column_heading(column: Column, with_group: bool = True) -> str:
    """Label and symbol of a column, after its group's heading, with the proxy named."""
    label = f"{column.label} {column.symbol}".strip()
    label = f"{column.group}: {label}" if with_group and column.group else label
    return f"{label} (proxy for {column.proxy})" if column.proxy else label


def context_line(table: Table) -> str:
    """n, T, seed and conventions, as printed under the table."""
    parts = [f"{name} = {value}" for name, value in (("n", table.n), ("T", table.T), ("seed", table.seed))]
    shown = [
        part for part, value in zip(parts, (table.n, table.T, table.seed), strict=True) if value is not None
    ]
    return "; ".join([*shown, *([table.conventions] if table.conventions else [])])


def _footer(table: Table) -> list[str]:
    """The lines under a table: context, notes, and what the marks of the paper's values mean."""
    used = {cell.paper.provenance for row in table.cells for cell in row if cell.paper}
    marks = [f"{PROVENANCE_MARK[name]}: {text}" for name, text in PROVENANCE_MEANING.items() if name in used]
    legend = f"Paper's values, ({'; ('.join(mark.replace(':', ')', 1) for mark in marks)}." if marks else ""
    return [text for text in (context_line(table), *table.notes, legend) if text]


# ------------------------------------------------------------------------------------------------
# CSV


def _number(value: float | str | None) -> str:
    if isinstance(value, int | str):
        return str(value)
    return str(float(value)) if value is not None and math.isfinite(value) else ""


def to_csv(table: Table) -> str:
    """Wide CSV at full precision: each value, then its _low, _high, _spread, _floor, _theory, _paper."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [[c.name, *(f"{c.name}_{field}" for field in _CSV_FIELDS)] for c in table.columns]
    writer.writerow([table.row_header, *itertools.chain.from_iterable(names)])
    for index, cells in enumerate(table.cells):
        values: list[float | str | None] = []
        for cell in cells:
            low, high = cell.ci95 or (None, None)
            paper = cell.paper.value if cell.paper else None
            values += [cell.value, low, high, cell.spread, cell.floor, cell.theory, paper]
        writer.writerow([table.row_key(index), *map(_number, values)])
    return out.getvalue()


# ------------------------------------------------------------------------------------------------
# Markdown


def _markdown_cell(cell: Cell, said: str, conventions: str) -> str:
    text = cell_text(cell, said, conventions)
    value = f"**{text.value}**" if cell.bold else text.value
    parts = [value, text.unit if text.value != "–" else "", text.spread, text.interval]
    comparisons = f"({'; '.join(text.comparisons())})" if text.comparisons() else ""
    return " ".join(part for part in (*parts, comparisons) if part)


def to_markdown(table: Table) -> str:
    """Title, an aligned pipe table, and the context line."""
    head = [table.row_header, *(column_heading(column) for column in table.columns)]
    body = [
        [
            table.row_key(i),
            *(
                _markdown_cell(cell, f"{table.row_header}; {table.rows[i]}", table.conventions)
                for cell in cells
            ),
        ]
        for i, cells in enumerate(table.cells)
    ]
    grid = [[text.replace("|", r"\|").replace("\n", " ") for text in row] for row in (head, *body)]
    widths = [max(3, *(len(row[i]) for row in grid)) for i in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(row: list[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(t.rjust(w) for t, w in zip(row[1:], widths[1:], strict=True))]
        return f"| {' | '.join(cells)} |"

    lines = [f"**{table.title}.** {table.caption}", "", *map(line, [grid[0], rule, *grid[1:]])]
    footer = [line for text in _footer(table) for line in ("", text)]
    return "\n".join([*lines, *footer]) + "\n"


# ------------------------------------------------------------------------------------------------
# LaTeX


def _latex_cell(cell: Cell, said: str, conventions: str) -> str:
    text = cell_text(cell, said, conventions)
    if text.value == "–":
        return "--"
    value = to_latex(f"{text.value} {text.unit}".strip())
    value = rf"\textbf{{{value}}}" if cell.bold else value
    value += rf" {{\scriptsize {to_latex(text.spread)}}}" if text.spread else ""
    lines = [text.interval, ", ".join(text.comparisons())]
    lines = [value, *(rf"{{\scriptsize {to_latex(line)}}}" for line in lines if line)]
    stacked = r" \\ ".join(lines)
    return stacked if len(lines) == 1 else rf"\shortstack[r]{{{stacked}}}"


def _latex_groups(table: Table) -> list[str]:
    if not any(column.group for column in table.columns):
        return []
    heads, rules, start = [], [], 2
    for group, columns in itertools.groupby(table.columns, key=lambda column: column.group):
        span = len(list(columns))
        heads.append(rf"\multicolumn{{{span}}}{{c}}{{{to_latex(group)}}}")
        rules += [rf"\cmidrule(lr){{{start}-{start + span - 1}}}"] if group else []
        start += span
    return [" & ".join(["", *heads]) + r" \\", " ".join(rules)]


def to_latex_table(table: Table) -> str:
    """A complete `table` float; needs the booktabs package."""
    width = len(table.columns) + 1
    labels = [to_latex(table.row_header), *(to_latex(column_heading(c, False)) for c in table.columns)]
    lines = [r"% \usepackage{booktabs}", r"\begin{table}", r"\centering"]
    caption = " ".join(
        part if part[-1] in ".?!" else f"{part}." for part in (table.title, table.caption) if part
    )
    lines += [rf"\caption{{{to_latex(caption)}}}", rf"\label{{tab:{table.id}}}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}", r"\toprule", *_latex_groups(table)]
    lines += [" & ".join(labels) + r" \\", r"\midrule"]
    shown = ""
    for index, cells in enumerate(table.cells):
        group = table.row_groups[index] if table.row_groups else ""
        if group != shown:
            rule = [r"\addlinespace"] if index else []
            lines += (
                [*rule, rf"\multicolumn{{{width}}}{{l}}{{\emph{{{to_latex(group)}}}}} \\"] if group else rule
            )
            shown = group
        said = f"{table.row_header}; {table.rows[index]}"
        shown_cells = (_latex_cell(cell, said, table.conventions) for cell in cells)
        lines.append(" & ".join([to_latex(table.rows[index]), *shown_cells]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    notes = [to_latex(text.rstrip(".") + ".") for text in _footer(table)]
    lines += [rf"\par\smallskip{{\footnotesize {' '.join(notes)}\par}}"] if notes else []
    return "\n".join([*lines, r"\end{table}"]) + "\n"
