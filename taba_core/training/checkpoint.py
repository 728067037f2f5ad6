"""Checkpoints of a run: the newest complete one is always there, whatever happens while the next is written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from taba_core.errors import UsageError, WorkError


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it into place.

    Raises:
      WorkError: the disk is full or not writable; what was there before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise WorkError(
            f"{path} could not be written ({error}); the file before it, if any, is untouched. Make room on the disk "
            "and run the same command again: it goes on from there."
        ) from None


def write_text_whole(path: Path, text: str) -> None:
    """Write a text file as `write_whole` does."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_whole(path, write)


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a run's state. Raises WorkError as `write_whole`."""
    write_whole(path, lambda temporary: torch.save(dict(state), temporary))


def load_checkpoint(path: Path, run: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read a run's state, on the CPU.

    Args:
      run: what the checkpoint must be of; None takes any.
    Raises:
      WorkError: a damaged file. UsageError: the state of another run.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = state["run"]
    except Exception as error:  # torch's reader raises whatever its parsing of damaged bytes stumbles over
        raise WorkError(
            f"{path} is no complete checkpoint ({type(error).__name__}). Remove it to begin anew."
        ) from None
    if run is not None and found != run:
        raise UsageError(
            f"{path} is of another run: {_first_difference(found, run)}. Give another --out, or remove the file to "
            "begin anew."
        )
    return state


def _first_difference(found: Any, wanted: Any, where: str = "") -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in {**found, **wanted}:
            if found.get(key) != wanted.get(key):
                return _first_difference(found.get(key), wanted.get(key), f"{where}.{key}".lstrip("."))
    return f"{where} is {found!r} there and {wanted!r} now"
