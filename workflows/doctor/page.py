"""The findings as one page of text, in colour on a terminal, and as JSON."""

from __future__ import annotations

import json
import platform
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from workflows.doctor.finding import Finding, Registered

if TYPE_CHECKING:
    from rich.console import Console

Findings = Sequence[tuple[Registered, Finding]]
_STYLES = {"ok": "green", "warn": "bold yellow", "FAIL": "bold red", "skipped": "dim"}
_WIDTH = 100


def print_page(findings: Findings) -> None:
    """One line a check under the heading of its section; what to do stands below what was found."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    console.width = min(console.width, _WIDTH) if console.is_terminal else _WIDTH
    with console.capture() as page:
        _compose(console, findings)
    # Tables fill their last column with spaces, which a log should not hold.
    print("\n".join(line.rstrip() for line in page.get().splitlines()))


def _compose(console: Console, findings: Findings) -> None:
    from rich.table import Table
    from rich.text import Text

    console.print(f"taba doctor on {platform.node()}, {platform.system()} {platform.machine()}")
    for section, rows in _by_section(findings):
        console.print(f"\n{section}", style="bold")
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=9)
        table.add_column(width=16)
        table.add_column(ratio=1, overflow="fold")
        for name, finding in _merged(rows):
            said = Text(finding.found)
            if finding.remedy:
                said.append(f"\n-> {finding.remedy}", style="bold" if finding.status == "FAIL" else "")
            table.add_row(Text(f"  {finding.status}", style=_STYLES[finding.status]), Text(name), said)
        console.print(table)
    console.print(f"\n{summary(findings)}", style="bold")


def print_json(findings: Findings) -> None:
    """One object: the machine, how often each status came, the findings in the page's order."""
    rows = [
        {
            "section": entry.section,
            "check": entry.name,
            "status": finding.status,
            "found": finding.found,
            "remedy": finding.remedy,
        }
        for entry, finding in findings
    ]
    counts = Counter(finding.status for _, finding in findings)
    json.dump(
        {"host": platform.node(), "machine": platform.machine(), "counts": counts, "findings": rows},
        sys.stdout,
        indent=1,
    )
    print()


def summary(findings: Findings) -> str:
    """How often each status came, the worst first: "1 FAIL, 2 warn, 12 ok, 4 skipped"."""
    counts = Counter(finding.status for _, finding in findings)
    return ", ".join(f"{counts[status]} {status}" for status in ("FAIL", "warn", "ok", "skipped"))


def _by_section(findings: Findings) -> Iterable[tuple[str, list[tuple[str, Finding]]]]:
    sections: dict[str, list[tuple[str, Finding]]] = {}
    for entry, finding in findings:
        sections.setdefault(entry.section, []).append((entry.name, finding))
    return sections.items()


def _merged(rows: list[tuple[str, Finding]]) -> list[tuple[str, Finding]]:
    """A section of which everything was skipped for one reason takes one line."""
    findings = {finding for _, finding in rows}
    if len(rows) > 1 and len(findings) == 1 and rows[0][1].status == "skipped":
        return [(f"{len(rows)} checks", rows[0][1])]
    return rows
