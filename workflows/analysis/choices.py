"""Work that studies leave out by default: what it is, and how to ask for it."""

from __future__ import annotations

from dataclasses import dataclass

from workflows.configuration.context import Context
from workflows.configuration.forward_rules import differing_rules


@dataclass(frozen=True)
class Choice:
    """Work that a study leaves out unless it is asked for.

    Attributes:
      what: the work, as a noun with its article.
      setting: FIELD=VALUE that asks for it, as `--set` takes it.
    """

    what: str
    setting: str


def other_rule(context: Context) -> tuple[Choice, ...]:
    """The reading of "replace K steps" that a sweep leaves out; nothing where it compares all that differ."""
    left = [rule for rule in differing_rules(context.conventions) if rule not in context.forward_rules]
    return tuple(
        Choice(
            f"the {rule} rule of forward replacement ({context.forward_rules[0]} is the model's own)",
            BOTH_RULES,
        )
        for rule in left
    )


BOTH_RULES = "forward_rules=both"
