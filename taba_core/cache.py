"""The cache folder of a user: what can be made or fetched again, shared by all stores. No torch."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """Where fits, fetched weights and hashes are kept: $TABA_CACHE, else $XDG_CACHE_HOME/taba, else ~/.cache/taba."""
    if chosen := os.environ.get("TABA_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "taba"


def read_json_table(path: Path) -> dict[str, Any]:
    """A JSON object from a file; {} if there is none or it is damaged."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def write_json_table(path: Path, table: dict[str, Any]) -> None:
    """Replace a JSON file in one move, so that a reader sees the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(table, file, indent=1, sort_keys=True)
    os.replace(partial, path)


@contextlib.contextmanager
def one_process_at_a_time(path: Path) -> Iterator[None]:
    """Hold what is made at a path for one process of this machine; the lock ends with its process.

    Where the cache folder cannot be written, or its file system has no locks, nobody waits: each process then makes
    the thing by itself.
    """
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = held.enter_context((path.parent / ".lock").open("a"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
