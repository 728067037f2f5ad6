"""`taba compare`: what changed between two stores, report folders or submissions; nothing is written."""

from __future__ import annotations

import json
from typing import Any

from workflows.report.difference import Changed, Difference, Moved, difference
from workflows.report.files import plain
from workflows.report.sides import Side, read_side
from workflows.text import count_text, print_table

_SHOWN = 30  # numbers a terminal shows; --json has all


def print_comparison(a: str, b: str, *, as_json: bool) -> None:
    """Print every difference; exit code 1 if there are any besides versions."""
    sides = read_side(a), read_side(b)
    found = difference(*sides)
    if as_json:
        print(json.dumps(plain(_document(*sides, found)), indent=1, ensure_ascii=False))
    else:
        _print(*sides, found)
    if not found.equal:
        raise SystemExit(1)


def _document(a: Side, b: Side, found: Difference) -> dict[str, Any]:
    return {
        "a": {"where": a.where, "kind": a.kind},
        "b": {"where": b.where, "kind": b.kind},
        "equal": found.equal,
        "only_in_a": found.only_a,
        "only_in_b": found.only_b,
        "numbers_compared": found.numbers,
        "numbers_moved": [
            {
                "study": m.study,
                "model": m.model,
                **m.place._asdict(),
                "old": m.old,
                "new": m.new,
                "share": m.share,
            }
            for m in found.moved
        ],
        "claims_compared": found.claims,
        "verdicts_changed": [change._asdict() for change in found.verdicts],
        "settings_changed": [change._asdict() for change in found.settings],
        "versions_changed": [change._asdict() for change in found.versions],
        "not_compared": found.unread,
    }


def _print(a: Side, b: Side, found: Difference) -> None:
    print(f"A: {a.where} ({a.kind})\nB: {b.where} ({b.kind})")
    for title, lines in (
        ("only in A", found.only_a),
        ("only in B", found.only_b),
        ("not compared", found.unread),
    ):
        if lines:
            print(f"\n{title}:\n" + "\n".join(f"  {line}" for line in lines))
    print(f"\n{count_text(found.numbers)} numbers compared, {count_text(len(found.moved))} differ")
    if found.moved:
        print_table(
            ("number", "A", "B", "half-widths of A's interval"), [_row(m) for m in found.moved[:_SHOWN]]
        )
        if len(found.moved) > _SHOWN:
            print(f"and {count_text(len(found.moved) - _SHOWN)} more: --json has all of them")
    print(f"\n{count_text(found.claims)} claims compared, {len(found.verdicts)} have another verdict")
    for title, changes in (("", found.verdicts), ("settings", found.settings), ("versions", found.versions)):
        if changes:
            print(f"\n{title}".rstrip())
            print_table(("", "A", "B"), [_line(change) for change in changes])
    print(f"\nA and B {'say the same' if found.equal else 'differ'}.")


def _row(moved: Moved) -> tuple[str, str, str, str]:
    parts = (moved.study, moved.model, moved.place.item, moved.place.row, moved.place.column)
    share = "" if moved.share is None else f"{moved.share:.2g}"
    return " / ".join(filter(None, parts)), _text(moved.old), _text(moved.new), share


def _line(change: Changed) -> tuple[str, str, str]:
    name = f"{change.where}: {change.name}" if change.where else change.name
    return name, _text(change.old), _text(change.new)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
