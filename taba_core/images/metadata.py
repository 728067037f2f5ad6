"""Captions and classes of the images of a folder: the file `metadata.jsonl`, one JSON object a line.

The layout is that of the hub's image folders: {"file_name": "a.png", "text": "a cat", "class": 3}. Other fields are
left alone. Captions follow the rules of prompt files: what is invisible and would change an embedding is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taba_core.errors import UsageError
from taba_core.models.prompt_files import refuse_characters, text_of

METADATA = "metadata.jsonl"
MAX_CLASS = 2**31 - 1  # classes are stored as int32
_WAY_OUT = (
    f"Write one line for each image in {METADATA}, for example " + '{"file_name": "a.png", "text": "a cat"}.'
)
_RULES = {"text": "a text that is not empty", "class": "a whole number from 0"}


def read_metadata(folder: Path, names: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """(captions, classes) of the named images, in their order; each empty where the file gives none.

    Raises:
      UsageError: a file that is no text or no JSON, does not name every image once, gives some images a caption or
        class and others none, or a caption or class that cannot be one; the message says where and the way out.
    """
    path = folder / METADATA
    if not (path.exists() or path.is_symlink()):  # a link to nothing is refused below
        return (), ()
    entries = _entries(path, names)
    captions = _column(path, entries, names, "text")
    classes = _column(path, entries, names, "class")
    return captions, classes


def _entries(path: Path, names: Sequence[str]) -> dict[str, tuple[int, dict[str, Any]]]:
    """By image: the number of its line, and what the line says."""
    try:
        lines = re.split(r"\r\n|\n|\r", text_of(path, what="metadata", way_out=_WAY_OUT))
    except FileNotFoundError:
        raise UsageError(f"{path} is no file that can be read. {_WAY_OUT}") from None
    known = frozenset(names)
    entries: dict[str, tuple[int, dict[str, Any]]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise UsageError(f"{path}, line {number}: no JSON object with a file_name. {_WAY_OUT}")
        if name in entries or name not in known:
            problem = "is named twice" if name in entries else "is no image of the folder"
            raise UsageError(f"{path}, line {number}: '{name}' {problem}. {_WAY_OUT}")
        entries[name] = (number, entry)
    missing = [name for name in names if name not in entries]
    if missing:
        count = "1 image has" if len(missing) == 1 else f"{len(missing)} images have"
        raise UsageError(f"{path}: {count} no line, the first is '{missing[0]}'. {_WAY_OUT}")
    return entries


def _column(
    path: Path, entries: dict[str, tuple[int, dict[str, Any]]], names: Sequence[str], field: str
) -> tuple[Any, ...]:
    """One value for each image, or () where no image has one."""
    rows = [entries[name] for name in names]
    if all(entry.get(field) is None for _, entry in rows):
        return ()
    for name, (number, entry) in zip(names, rows, strict=True):
        value: Any = entry.get(field)
        if not (_is_caption(value) if field == "text" else _is_class(value)):
            said = "has none" if value is None else f"has {json.dumps(value)}"
            raise UsageError(
                f"{path}, line {number}: '{field}' must be {_RULES[field]} for every image or be left out for all, "
                f"and '{name}' {said}. {_WAY_OUT}"
            )
        if field == "text":
            refuse_characters(value, f"{path}:{number}", json_text=True)
    return tuple(entry[field] for _, entry in rows)


def _is_caption(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_class(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_CLASS
