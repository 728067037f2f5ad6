"""`write_report`: one folder with the pages, every table, every figure and all numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from workflows.analysis.presentation import Failure, Figure, Run, Section, Table
from workflows.report.files import remove, write_bytes, write_json, write_records, write_text
from workflows.report.records import claim_records, figure_records, table_records
from workflows.report.site.build import build_site
from workflows.report.style import RC, figure_files
from workflows.report.tables import to_csv, to_latex_table, to_markdown

_TABLE_SUFFIXES, _FIGURE_SUFFIXES = (".csv", ".md", ".tex"), (".webp", ".pdf")


def write_report(run: Run, folder: Path) -> tuple[Path, list[Failure]]:
    """Write a run's report; return the path of its first page, and the parts that could not be made.

    index.html and pages/*.html with what they need in assets; tables/<id>.csv, .md, .tex; figures/<id>.webp, .pdf;
    results.json (a list of numbers with their context), claims.json (a list of verdicts) and failures.json (a list of
    parts that could not be made), and the documents of the sections. Each file is replaced in one step, the first page
    last. The same run gives the same bytes. Pages of an earlier report that this one does not have are removed.

    Parts are made one by one. One that fails is named in its place on its page, its files of an earlier report are
    removed, and the rest is written. The numbers of a figure that cannot be drawn are in results.json all the same.

    Raises:
      WorkError: the folder cannot be written.
    """
    folder = Path(folder)
    run = replace(run, sections=tuple(in_paper_order(run.sections)))
    failures = [section.failure for section in run.sections if section.failure]
    records: list[dict[str, Any]] = []
    for section in run.sections:
        for table in section.tables:
            stem, make = (
                folder / "tables" / table.id,
                lambda t=table, s=section: (_table_files(t), table_records(s, t)),
            )
            failed = _write_part(stem, _TABLE_SUFFIXES, make, records)
            failures += [Failure.of("table", table.id, section.study, table.title, failed)] if failed else []
        for figure in section.figures:
            # The numbers do not need the drawing.
            records += figure_records(section, figure)
            stem, draw = folder / "figures" / figure.id, lambda f=figure: (_figure_files(f), [])
            failed = _write_part(stem, _FIGURE_SUFFIXES, draw, records)
            remove(stem.with_name(f"{stem.name}.png"))  # reports of earlier versions had it in place of .webp
            failures += (
                [Failure.of("figure", figure.id, section.study, figure.title, failed)] if failed else []
            )
        for name, document in section.documents.items():
            write_json(folder / f"{name}.json", document)
    site = build_site(run, folder, failures)
    write_records(folder / "results.json", records)
    write_json(folder / "claims.json", claim_records(run))
    write_json(folder / "failures.json", [asdict(failure) for failure in failures])
    for path, text in site.items():
        write_text(folder / path, text)
    for old in (folder / "pages").glob("*.html"):
        if f"pages/{old.name}" not in site:
            remove(old)
    return folder / "index.html", failures


def in_paper_order(sections: tuple[Section, ...]) -> list[Section]:
    """Sections sorted by `paper_section` ("3.1" before "3.10", numbers before appendices, then the rest)."""

    def order(section: Section) -> tuple[int, list[int], str]:
        text = section.paper_section
        numbers = [int(part) for part in re.findall(r"\d+", text)]
        if text[:1].isdigit():
            return (0, numbers, "")
        return (1, [], text) if text else (2, [], "")

    return sorted(sections, key=order)


_Made = tuple[dict[str, bytes], list[dict[str, Any]]]


def _write_part(
    stem: Path, suffixes: tuple[str, ...], make: Callable[[], _Made], records: list[dict[str, Any]]
) -> Exception | None:
    """Make one part's files and numbers and keep them, or remove what an earlier report left; returns the failure.

    A folder that cannot be written is no failure of the part.
    """
    try:
        files, numbers = make()
    except Exception as error:  # whatever is wrong with one part, the others are made
        for suffix in suffixes:
            remove(stem.with_name(stem.name + suffix))
        return error
    records += numbers
    for suffix, content in files.items():
        write_bytes(stem.with_name(stem.name + suffix), content)
    return None


def _table_files(table: Table) -> dict[str, bytes]:
    makers = zip(_TABLE_SUFFIXES, (to_csv, to_markdown, to_latex_table), strict=True)
    return {suffix: maker(table).encode("utf-8") for suffix, maker in makers}


def _figure_files(figure: Figure) -> dict[str, bytes]:
    # The settings hold while a study composes a figure of its own, not only inside the plotting functions.
    import matplotlib as mpl

    with mpl.rc_context(RC):
        drawing = figure.draw()
    return figure_files(drawing)
