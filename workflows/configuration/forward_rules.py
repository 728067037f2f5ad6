"""Which readings of "replace K steps" studies compare under a model's conventions and the user's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taba_core.conventions import ForwardLevel

if TYPE_CHECKING:
    from workflows.configuration.context import Context


def differing_rules(context: Context) -> tuple[ForwardLevel, ...]:
    """The readings that differ under the conventions; shifted levels make them one."""
    return ("matched",) if context.conventions.levels == "shifted" else ("exact", "matched")


def compared_rules(context: Context) -> tuple[ForwardLevel, ...]:
    """Those that sweeps over K compare: as asked, else all of models that run on any machine and a network's own.

    Both double a sweep, which of the paper's networks takes many GPU-hours.
    """
    asked, differing = context.settings.forward_rules, differing_rules(context)
    both = asked == "both" or (asked is None and context.card.runs_anywhere)
    return differing if both or len(differing) == 1 else (context.conventions.forward_level,)
