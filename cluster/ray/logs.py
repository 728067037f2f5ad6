"""Ray's own logs of a private cluster, kept when something went wrong: they are gone with its directory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

MAX_FILE_BYTES = 1_000_000
MAX_TOTAL_BYTES = 20_000_000


def copy_logs(source: Path, target: Path) -> int:
    """Copy the ends of log files, newest first, until `MAX_TOTAL_BYTES`; returns the bytes copied.

    What cannot be read or written is left out: this runs after a failure, and must not hide it.
    """
    copied = 0
    with contextlib.suppress(OSError):
        files = [path for path in source.rglob("*") if path.is_file() and path.stat().st_size]
        files.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for file in files:
            if copied >= MAX_TOTAL_BYTES:
                break
            with contextlib.suppress(OSError):
                copied += _copy_end(file, target / file.relative_to(source))
    return copied


def _copy_end(file: Path, target: Path) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    with file.open("rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(0, size - MAX_FILE_BYTES))
        return target.write_bytes(log.read(MAX_FILE_BYTES))
