"""Ray's processes on this machine, as Linux lists them in /proc; other systems say nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_ENDED = ("Z", "X")  # states of a process that has ended and whose parent has not asked for its status


@dataclass(frozen=True)
class Process:
    """One process: its number, its name (15 characters at most), its parent's number, and when it started."""

    pid: int
    name: str
    parent: int
    started: int
    ended: bool


def _read(pid: int) -> Process | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # "pid (name) state parent ...", and the name may hold spaces and brackets; field 22 is the start in clock ticks.
    name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
    return Process(pid, name, int(rest[1]), int(rest[19]), rest[0] in _ENDED)


def _all() -> Iterator[Process]:
    if not _PROC.is_dir():
        return
    for entry in os.listdir(_PROC):
        if entry.isdecimal() and (process := _read(int(entry))) is not None:
            yield process


def children_named(names: Iterable[str]) -> tuple[Process, ...]:
    """The processes of these names that this process started and that run."""
    wanted, own = frozenset(names), os.getpid()
    return tuple(p for p in _all() if p.parent == own and p.name in wanted and not p.ended)


def has_ended(process: Process) -> bool:
    """Whether a process that was seen running runs no more."""
    now = _read(process.pid)
    return now is None or now.ended or now.started != process.started


def runs_here(name: str) -> bool:
    """Whether a process of this name runs on this machine; True where the system does not say."""
    return not _PROC.is_dir() or any(p.name == name and not p.ended for p in _all())
