"""Which readings of "replace K steps" studies compare under a model's conventions and the user's settings."""

from __future__ import annotations

from taba_core.conventions import Conventions, ForwardLevel


def differing_rules(conventions: Conventions) -> tuple[ForwardLevel, ...]:
    """The readings that differ; shifted levels make them one."""
    return ("matched",) if conventions.levels == "shifted" else ("exact", "matched")


def compared_rules(conventions: Conventions, *, both: bool) -> tuple[ForwardLevel, ...]:
    """Those that sweeps over K compare: all that differ, or the conventions' own alone.

    Both double a sweep, which of the paper's networks takes many GPU-hours.
    """
    differing = differing_rules(conventions)
    return differing if both or len(differing) == 1 else (conventions.forward_level,)
