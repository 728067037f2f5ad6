"""The messages of the program that name a way out, read from its sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Those of models are followed in tests/models/test_remedies.py; findings of the doctor in tests of their own.
ROOMS = ("taba_core/store", "taba_core/training", "cluster", *(f"workflows/{room}" for room in (
    "command", "execution", "planning", "studies", "analysis", "configuration", "compute", "report", "bench",
)))  # fmt: skip

# A sentence or clause that tells the reader to do something, by the verbs that messages use, or names a command.
_ORDER = re.compile(
    r"(?:^|[.;:,?`'\n\0] ?|\bor |\band |\bthen )"
    r"(?:add|another directory|check|convert|delete|end|fetch|fix|free|give|install|leave|make|open it|put|raise|"
    r"remove|run|say|see to|set|start|stop|try|undo|unset|use|wait|write)\b"
    r"|`taba |slurm/\w+\.sh|--run-dir|--live",
    re.IGNORECASE,
)
_HELP = {"Option", "Argument", "Field", "Typer", "field", "DeprecationWarning"}
HOLE = "\0"


@dataclass(frozen=True)
class Message:
    """A literal of the source: its place, and its text with a NUL where a value is put in."""

    place: str
    line: int
    text: str

    def holds(self, fragment: str) -> bool:
        """Whether a fragment is of this message: a long one anywhere, a short one as all text between two values."""
        return fragment in self.text if len(fragment) >= 16 else fragment in self.text.split(HOLE)

    def __str__(self) -> str:
        return f"{self.place}:{self.line}: {self.text.replace(HOLE, '…')}"


def remedies() -> list[Message]:
    """Every message of the rooms that orders something, in the order of the sources."""
    files = [file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))]
    return [message for file in files for message in _messages(file) if _ORDER.search(message.text)]


def _messages(file: Path) -> Iterator[Message]:
    place = str(file.relative_to(ROOT))
    for node in _literals(ast.parse(file.read_text())):
        text = _text(node)
        if text is not None and " " in text.strip():
            yield Message(place, node.lineno, text)


def _literals(node: ast.AST) -> Iterator[ast.expr]:
    """Whole literals below a node: no part of one, no docstring, no help of an option, no description of a field."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in _HELP:
        return
    if isinstance(node, ast.Constant | ast.JoinedStr):
        yield node
        return
    for child in ast.iter_child_nodes(node):
        yield from _literals(child)


def _text(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if not isinstance(node, ast.JoinedStr):
        return None
    return "".join(str(part.value) if isinstance(part, ast.Constant) else HOLE for part in node.values)


def followed() -> dict[str, str]:
    """Fragments of messages whose ways out a test follows (its mark `follows`), each with the file of the test."""
    found = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            called = node.func if isinstance(node, ast.Call) else None
            if called is not None and getattr(called, "id", getattr(called, "attr", "")) == "follows":
                found |= {text: file.name for word in node.args if (text := _text(word)) is not None}
    return found
