"""Writing the report's files: whole or not at all, and strict JSON."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from taba_core.errors import WorkError


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Errors of the file system as one message with the way out."""
    try:
        yield
    except OSError as error:
        raise WorkError(
            f"cannot write {path}: {error.strerror or error}. The report needs a writable folder with free "
            f"space; free some, or write the report elsewhere."
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file in one step: a reader sees the old content or the new, never a part.

    Raises:
      WorkError: the file cannot be written (permission, disk full).
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(
                temporary, 0o644
            )  # mkstemp makes 0600, which a shared folder's other readers cannot open
            os.replace(temporary, path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise


def remove(path: Path) -> None:
    """Remove a file that may not be there.

    Raises:
      WorkError: the folder cannot be changed.
    """
    with explained(path):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def plain(value: Any) -> Any:
    """A value as strict JSON can hold it: NaN and infinities to null, tuples and arrays to lists.

    Objects JSON has no type for become their text.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays, without importing numpy
        return plain(value.tolist())
    return str(value)


def write_json(path: Path, value: Any) -> None:
    """Write strict, indented JSON (see `plain`)."""
    text = json.dumps(plain(value), allow_nan=False, ensure_ascii=False, indent=1)
    write_text(path, text + "\n")


def write_records(path: Path, records: Sequence[Any]) -> None:
    """Write a strict JSON list with one record a line: smaller than indented, and read by line-wise tools too."""
    lines = ",\n".join(json.dumps(plain(record), allow_nan=False, ensure_ascii=False) for record in records)
    write_text(path, f"[\n{lines}\n]\n")
