"""Plain text for terminals: aligned tables, counts, bytes, durations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def bytes_text(count: float) -> str:
    """1536 -> '1.5 kB' (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def count_text(count: float) -> str:
    """Thousands separated: 12800 -> '12,800'."""
    return f"{count:,.0f}"


def duration_text(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns aligned: text left, numbers right."""
    table = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    numeric = [all(_is_number(row[i]) for row in table[1:] if row[i]) for i in range(len(header))]
    for index, row in enumerate(table):
        cells = [
            c.rjust(w) if right else c.ljust(w) for c, w, right in zip(row, widths, numeric, strict=True)
        ]
        print("  ".join(cells).rstrip())
        if index == 0:
            print("  ".join("-" * w for w in widths))


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "").replace("/", "").split(" ")[0].lstrip("-").isdigit()
