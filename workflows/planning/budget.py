"""The bytes that a run may store."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from taba_core.errors import UsageError
from taba_core.store.address import is_remote
from workflows.planning.plan import Plan
from workflows.text import bytes_text

LARGEST_DEFAULT = 10**12
FREE_SHARE = 0.8
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40, "PIB": 2**50}


@dataclass(frozen=True)
class Budget:
    """Most bytes that what was asked may take in the store, what is there already included.

    Attributes:
      given: by the user; else it follows from the room at the store.
    """

    bytes: int
    given: bool

    def __str__(self) -> str:
        room = (
            ""
            if self.given or self.bytes == LARGEST_DEFAULT
            else f", {FREE_SHARE:.0%} of the room at the store"
        )
        return f"{bytes_text(self.bytes)}{room}"


def parse_bytes(text: str) -> int:
    """`500GB`, `1.5 TB`, `2GiB` as bytes.

    Raises:
      UsageError: no positive size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if found is None or found[2].upper() not in _UNITS or float(found[1]) == 0:
        raise UsageError(f"--budget {text}: write a size, for example 500GB, 1.5TB or 200GiB.")
    return round(float(found[1]) * _UNITS[found[2].upper()])


def budget_at(store: str, text: str | None, held: int) -> Budget:
    """The user's budget, else 1 TB or 80 % of the room at the store, whichever is less.

    Room is what is free and what the store already `held` of the asked, so that it does not shrink as a run writes
    and a resumed run decides as the first one did.
    """
    if text is not None:
        return Budget(parse_bytes(text), given=True)
    if is_remote(store):
        return Budget(LARGEST_DEFAULT, given=False)
    place = Path(store.removeprefix("file://")).absolute()
    while not place.exists():
        place = place.parent
    system = os.statvfs(place)
    room = system.f_bavail * system.f_frsize + held
    return Budget(min(LARGEST_DEFAULT, int(FREE_SHARE * room)), given=False)


def over_budget(plans: Sequence[Plan], where: str, text: str | None) -> str:
    """Why plans may not run: what they store is more than the budget. Empty where all fits.

    Args:
      where: path or URL of the store.
      text: the budget as the user gave it.
    Raises:
      UsageError: a budget that is no size.
    """
    total = sum(plan.bytes_total for plan in plans)
    budget = budget_at(where, text, total - sum(plan.bytes_missing for plan in plans))
    # What is stored already takes no room any more.
    if not any(plan.units for plan in plans) or total <= budget.bytes:
        return ""
    kept = plans[0].context.settings.trajectories
    ways = [
        "--budget SIZE" if budget.given else "--budget SIZE, another --store",
        "a smaller --set num_samples",
    ]
    if kept:
        ways.append("--set trajectories=0" if kept != "all" else "--set trajectories=64")
    return (
        f"what is asked takes {bytes_text(total)}, more than the budget of {budget}. "
        f"Use {', '.join(ways[:-1])} or {ways[-1]}."
    )
