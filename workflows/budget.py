"""Bytes a run may store, and what it stores of sampling paths so that it keeps within them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from taba_core.errors import UsageError
from taba_core.store import Store
from taba_core.store.address import is_remote
from workflows.plan import Plan
from workflows.text import bytes_text, count_text

LARGEST_DEFAULT = 10**12
FREE_SHARE = 0.8
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40, "PIB": 2**50}
# A job's plan, with whole paths or with what stands for them.
MakePlan = Callable[[bool], Plan]


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


@dataclass(frozen=True)
class Decision:
    """The plans to carry out, and what was decided about paths and why.

    Attributes:
      line: one line for the user; empty where no path was asked and all fits.
      refusal: why nothing may run; empty where all fits.
    """

    plans: list[Plan]
    line: str = ""
    refusal: str = ""


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


def decide(
    makers: Sequence[MakePlan], policy: str, store: Store | None, where: str, text: str | None
) -> Decision:
    """Whole sampling paths where they fit the budget, else what stands for them, largest saving first.

    Args:
      makers: one a model.
      policy: the setting `trajectories`: auto, full, or fused.
    """
    whole = [make(False) for make in makers]
    small = [make(True) for make in makers]
    held = sum(_held(a, b) for a, b in zip(whole, small, strict=True))
    budget = budget_at(where, text, held)
    plans = list(small if policy == "fused" else whole)
    for index in _by_saving(whole, small) if policy == "auto" else []:
        if _fits(plans, budget):
            break
        plans[index] = small[index]
    has_paths = any(a.bytes_total != b.bytes_total for a, b in zip(whole, small, strict=True))
    line = _line(whole, plans, budget) if has_paths else ""
    return Decision(plans, line, "" if _fits(plans, budget) else _refusal(plans, budget, policy))


def _by_saving(whole: Sequence[Plan], small: Sequence[Plan]) -> list[int]:
    savings = [a.bytes_total - b.bytes_total for a, b in zip(whole, small, strict=True)]
    return [i for i in sorted(range(len(savings)), key=lambda i: -savings[i]) if savings[i] > 0]


def _held(whole: Plan, small: Plan) -> int:
    """Bytes in the store of the artifacts of either plan."""
    own = {p.artifact for p in whole.artifacts}
    rest = [p for p in small.artifacts if p.artifact not in own]
    return whole.bytes_total - whole.bytes_missing + small.bytes_of_all(rest) - small.bytes_missing_of(rest)


def _fits(plans: Sequence[Plan], budget: Budget) -> bool:
    # What is stored already takes no room any more.
    return not any(p.units for p in plans) or sum(p.bytes_total for p in plans) <= budget.bytes


def _line(whole: Sequence[Plan], plans: Sequence[Plan], budget: Budget) -> str:
    full = bytes_text(sum(p.bytes_total for p in whole))
    fused = [p for p in plans if p.fused]
    if not fused:
        within = f"budget {budget}" if budget.given else "it fits the store"
        return f"with whole sampling paths: {full} ({within})."
    samples = min(max(p.path_samples for p in fused), fused[0].context.num_samples)
    rows = bytes_text(sum(p.bytes_of_rows for p in fused))
    few = f" and the paths of the first {samples} samples" if samples else ""
    models = f" for {', '.join(p.context.card.title for p in fused)}" if len(plans) > 1 else ""
    small = sum(p.bytes_total for p in plans)
    more = sum(p.evaluations for p in plans) - sum(p.evaluations for p in whole)
    again = (
        f"; the paths are walked again for that ({count_text(more)} network evaluations more)"
        if more > 0
        else ""
    )
    why = f"> budget {budget}" if sum(p.bytes_total for p in whole) > budget.bytes else "(trajectories=fused)"
    return (
        f"whole sampling paths: {full} {why}: storing end points, per-step statistics ({rows}){few}{models}, "
        f"{bytes_text(small)} in all{again}."
    )


def _refusal(plans: Sequence[Plan], budget: Budget, policy: str) -> str:
    total = bytes_text(sum(p.bytes_total for p in plans))
    ways = [
        "--budget SIZE" if budget.given else "--budget SIZE, another --store",
        "a smaller --set num_samples",
    ]
    if policy == "full":
        ways.append("--set trajectories=auto")
    elif any(p.fused for p in plans) and plans[0].context.settings.trajectory_samples:
        ways.append("a smaller --set trajectory_samples")
    what = "what is asked" + (", even without whole sampling paths," if any(p.fused for p in plans) else "")
    return (
        f"{what} takes {total}, more than the budget of {budget}. Use {', '.join(ways[:-1])} or {ways[-1]}."
    )
