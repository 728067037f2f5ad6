"""Errors a user meets: what happened, where, the rule, and the way out, in one message."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class TabaError(Exception):
    """Base of every error taba raises on purpose; its text is shown without a traceback."""

    exit_code = 1


class UsageError(TabaError, ValueError):
    """The request cannot be carried out as asked (unknown name, impossible value). Exit code 2."""

    exit_code = 2


class WorkError(TabaError, RuntimeError):
    """The request was fine and the work failed (disk full, damaged shard, failed units). Exit code 1."""


class Stopped(TabaError):
    """A user or a scheduler asked for a stop; what finished is kept. Exit code 85: run the same command again."""

    exit_code = 85


class StoreError(WorkError):
    """A store is not what it should be: another schema, another spec, damaged or unreadable."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> UsageError:
    """Build the error for a name that does not exist, with the nearest names that do.

    Args:
      what: the kind of thing, singular ("model", "study", "field").
      name: what the user typed.
      known: every valid name.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return UsageError(f"unknown {what} '{name}': {hint}Known {_plural(what)}: {', '.join(names)}.")


def _plural(what: str) -> str:
    """The plural of a thing: of its first noun, where others follow ("network flag of adm-64", "model to extend")."""
    noun, joint, rest = re.match(r"(.*?)( of | to |$)(.*)", what).groups()  # type: ignore[union-attr]
    plural = (
        f"{noun}es"
        if noun.endswith("ss")
        else noun
        if noun.endswith("s")
        else f"{noun[:-1]}ies"
        if noun.endswith("y")
        else f"{noun}s"
    )
    return f"{plural}{joint}{rest}"
