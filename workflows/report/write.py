"""`write_report`: one folder with the page, every table, every figure and all numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from workflows.analysis.presentation import Figure, Run, Table
from workflows.report.files import write_json, write_text
from workflows.report.pages import in_paper_order, render
from workflows.report.records import claim_records, result_records
from workflows.report.style import RC, save_figure
from workflows.report.tables import to_csv, to_latex_table, to_markdown


def write_report(run: Run, folder: Path) -> Path:
    """Write a run's report and return the path of its page.

    index.html; tables/<id>.csv, .md, .tex; figures/<id>.png, .pdf; results.json (a list of numbers with
    their context) and claims.json (a list of verdicts). Each file is replaced in one step, the page last, so
    an interrupted report leaves the previous page whole. The same run gives the same bytes.

    Raises:
      WorkError: the folder cannot be written.
    """
    folder = Path(folder)
    run = replace(run, sections=tuple(in_paper_order(run.sections)))
    for section in run.sections:
        for table in section.tables:
            _write_table(table, folder / "tables")
        for figure in section.figures:
            _write_figure(figure, folder / "figures")
    write_json(folder / "results.json", result_records(run))
    write_json(folder / "claims.json", claim_records(run))
    page = folder / "index.html"
    write_text(page, render(run, folder))
    return page


def _write_table(table: Table, folder: Path) -> None:
    write_text(folder / f"{table.id}.csv", to_csv(table))
    write_text(folder / f"{table.id}.md", to_markdown(table))
    write_text(folder / f"{table.id}.tex", to_latex_table(table))


def _write_figure(figure: Figure, folder: Path) -> None:
    # The settings hold while a study composes a figure of its own, not only inside the plotting functions.
    import matplotlib as mpl

    with mpl.rc_context(RC):
        drawing = figure.draw()
    save_figure(drawing, folder / figure.id)
