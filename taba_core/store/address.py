"""From the address of a store, a path or a URL, to the place it lies in."""

from __future__ import annotations

import os
from pathlib import Path

from taba_core.store.local_place import LocalPlace
from taba_core.store.place import Place


def place_of(where: str | os.PathLike[str] | Place) -> Place:
    """The place of a path or URL; `file://` URLs are paths; a place is its own.

    Raises:
      UsageError: a URL with credentials in it, of an unknown kind, or whose packages are not installed.
    """
    if not isinstance(where, str | os.PathLike):
        return where
    text = os.fspath(where)
    if "://" not in text:
        return LocalPlace(Path(text))
    if text.startswith("file://"):
        return LocalPlace(Path(text.removeprefix("file://")))
    from taba_core.store.object_place import object_place

    return object_place(text)


def is_remote(where: str | os.PathLike[str]) -> bool:
    """Whether a --store names object storage or a web server, not a directory."""
    text = os.fspath(where)
    return "://" in text and not text.startswith("file://")
