"""Compare and swap of a file whose storage has no such operation, and the age of a file by the storage's own clock."""

from __future__ import annotations

import contextlib
import json
import uuid

from taba_core.store.files import PARTIAL_SUFFIX
from taba_core.store.holder import Holder, why_gone
from taba_core.store.place import Place, json_bytes

_STALE_S = 30.0  # a claim lives for milliseconds


def exchange_by_claim(file: Place, old: bytes, new: bytes) -> bool:
    """Put `new` in the place of `old`; False if the file holds something else, or somebody else is exchanging it.

    The claim, a file beside it of which only one can be made, is held while the file is read once more and replaced.
    Who stalls here for longer than a claim may live is caught by reading back, and by whatever reads the file later.

    Raises:
      WorkError: the storage refused.
    """
    claim = file.parent / f"{file.name.partition('.')[0]}.claim"
    if not claim.create_exclusive(json_bytes(Holder.this_process("claim").to_json())):
        _remove_dead(claim)
        return False
    try:
        if _read(file) != old:
            return False
        file.write_atomic(new)
        return _read(file) == new
    finally:
        claim.remove()


def seconds_since_written(file: Place) -> float | None:
    """Age of a file by the storage's clock, from its time and that of a file written now; None if there is no file."""
    probe = file.parent / f"clock.{uuid.uuid4().hex}{PARTIAL_SUFFIX}"
    try:
        probe.write_atomic(b"")
        now, then = probe.modified(), file.modified()
        return None if now is None or then is None else now - then
    finally:
        probe.remove()


def _remove_dead(claim: Place) -> None:
    """Remove the claim of a process that died within the milliseconds it held it."""
    age = seconds_since_written(claim)
    if age is None:
        return
    owner = None
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        owner = Holder.from_json(json.loads(claim.read_bytes()))
    if (owner and why_gone(owner, Holder.this_process("claim")) is not None) or age > _STALE_S:
        claim.remove()


def _read(file: Place) -> bytes | None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return file.read_bytes()
    return None
