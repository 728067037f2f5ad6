"""An append-only journal where nothing can be appended: an immutable object for what is appended at once, in `NAME.d`.

`<20 digits>-<8 hex>.line` holds its lines; the digits are nanoseconds since 1970, and rise with every object: also when
another process goes on whose clock is behind, since it reads the journal first. `<20 digits>-<8 hex>.all` holds every
line up to that time and replaces the objects before it. What is current follows from one listing, so a compaction
that was killed, or that runs while the journal is read, loses and repeats nothing.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence

from taba_core.errors import StoreError

FOLDER = ".d"  # after the journal's name; a directory store keeps lines in the file of that name itself
_DIGITS = 20
_lock = threading.Lock()
_last = 0


def encoded(lines: Sequence[str]) -> bytes:
    """Lines as an object holds them."""
    return "".join(f"{line}\n" for line in lines).encode()


def part_name() -> str:
    """Name of the object for the next lines."""
    global _last
    with _lock:
        _last = max(time.time_ns(), _last + 1)
        return f"{_last:0{_DIGITS}d}-{uuid.uuid4().hex[:8]}.line"


def whole_name(parts: Iterable[str]) -> str:
    """Name of the object that takes the place of these."""
    return f"{max(parts)[:_DIGITS]}-{uuid.uuid4().hex[:8]}.all"


def current(names: Iterable[str]) -> list[str]:
    """The objects that hold the journal, in order: the latest whole one, then the lines after it."""
    known = sorted(name for name in names if name.endswith((".line", ".all")))
    wholes = [name for name in known if name.endswith(".all")]
    if not wholes:
        return known
    last = wholes[-1]
    return [last, *(n for n in known if n.endswith(".line") and n[:_DIGITS] > last[:_DIGITS])]


def lines(
    listing: Callable[[], Mapping[str, int]], read: Callable[[Iterable[str]], Mapping[str, bytes]]
) -> list[str]:
    """All lines, in the order they were appended.

    Raises:
      StoreError: objects that are listed cannot be found, time after time.
    """
    for _ in range(5):
        names = current(listing())
        _follow(names)
        found = read(names)
        if len(found) == len(names):  # else a compaction has replaced some: list again
            text = "".join(_ended(found[name].decode(errors="replace")) for name in names)
            return text.splitlines()
    raise StoreError("the ledger changes faster than it can be read; try again.")


def _follow(names: Iterable[str]) -> None:
    """Let the next lines of this process come after those it has read, whatever its clock says."""
    global _last
    with _lock:
        _last = max((_last, *(int(name[:_DIGITS]) for name in names)))


def _ended(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"
