"""What changed from one store, report folder or submission to another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from taba_core.errors import UsageError
from workflows.report.sides import Answer, Number, Place, Side


class Moved(NamedTuple):
    """A number that is not what it was.

    Attributes:
      share: of the difference, in half-widths of the first number's 95 % interval; None without an interval.
    """

    study: str
    model: str
    place: Place
    old: Any
    new: Any
    share: float | None


class Changed(NamedTuple):
    """A verdict, a setting or a version that is not what it was; None where one side has none."""

    where: str
    name: str
    old: str | None
    new: str | None


@dataclass(frozen=True)
class Difference:
    """Everything that differs.

    Attributes:
      only_a, only_b: results, and parts of results (rows of tables, claims), that one side alone has.
      moved: numbers, the largest shares first.
      verdicts, settings, versions: what changed of them.
      numbers, claims: how many were compared.
      unread: results that were not compared, with the reason.
    """

    only_a: Sequence[str]
    only_b: Sequence[str]
    moved: Sequence[Moved]
    verdicts: Sequence[Changed]
    settings: Sequence[Changed]
    versions: Sequence[Changed]
    numbers: int
    claims: int
    unread: Sequence[str]

    @property
    def equal(self) -> bool:
        """Whether both say the same of the same; other versions that give the same numbers are no difference."""
        return not (self.only_a or self.only_b or self.moved or self.verdicts or self.settings or self.unread)


def difference(a: Side, b: Side) -> Difference:
    """Compare two sides, result by result; a result without its like is only in one.

    Raises:
      UsageError: sides of different kinds.
    """
    if a.kind != b.kind:
        raise UsageError(
            f"{a.where} is a {a.kind} and {b.where} is a {b.kind}; compare two of a kind. `taba report --store STORE "
            "--output FOLDER` writes the report folder of a store."
        )
    pairs, left_a, left_b = _paired(a.answers, b.answers)
    only_a, only_b = [_told(answer) for answer in left_a], [_told(answer) for answer in left_b]
    moved: list[Moved] = []
    verdicts: list[Changed] = []
    settings: list[Changed] = []
    numbers = claims = 0
    for old, new in pairs:
        shared = old.numbers.keys() & new.numbers.keys()
        numbers += len(shared)
        moved += [m for place in shared if (m := _moved(old, place, new.numbers[place]))]
        claims += len(old.verdicts.keys() & new.verdicts.keys())
        verdicts += [c for c in _changes(old.label, old.verdicts, new.verdicts) if None not in (c.old, c.new)]
        # Every setting that a number depends on is in the key.
        if not old.key or old.key != new.key:
            settings += _changes(old.label, old.settings, new.settings)
        only_a += _parts(old, new)
        only_b += _parts(new, old)
    return Difference(
        only_a,
        only_b,
        sorted(moved, key=lambda m: (-(m.share if m.share is not None else math.inf), m[:3])),
        verdicts,
        settings,
        list(_changes("", a.versions, b.versions)),
        numbers,
        claims,
        [f"A: {line}" for line in a.unread] + [f"B: {line}" for line in b.unread],
    )


def _paired(
    a: Sequence[Answer], b: Sequence[Answer]
) -> tuple[list[tuple[Answer, Answer]], list[Answer], list[Answer]]:
    """Results of one key belong together; of the others those that alone answer a study, a model and a method."""
    pairs: list[tuple[Answer, Answer]] = []
    left_a, left_b = list(a), list(b)
    for same in (_key, _question):
        for question in sorted({same(answer) for answer in left_a} & {same(answer) for answer in left_b}):
            olds, news = ([x for x in left if same(x) == question] for left in (left_a, left_b))
            if len(olds) == len(news) == 1:
                pairs.append((olds[0], news[0]))
                left_a.remove(olds[0])
                left_b.remove(news[0])
    return pairs, left_a, left_b


def _key(answer: Answer) -> tuple[str, str, str]:
    return answer.study, answer.model, answer.key


def _question(answer: Answer) -> tuple[str, str, str]:
    return answer.study, answer.model, answer.settings.get("method", "")


def _told(answer: Answer) -> str:
    return answer.label + (f" ({answer.key})" if answer.key else "")


def _parts(one: Answer, other: Answer) -> list[str]:
    """Rows of tables and figures, and claims, that only the first has."""
    rows = dict.fromkeys((place.item, place.row) for place in one.numbers if place not in other.numbers)
    claims = [f"{one.label}: claim {id}" for id in one.verdicts if id not in other.verdicts]
    return [": ".join(filter(None, (f"{one.label}: {item}", row))) for item, row in rows] + claims


def _moved(old: Answer, place: Place, new: Number) -> Moved | None:
    before = old.numbers[place]
    if _same(before.value, new.value):
        return None
    return Moved(old.study, old.model, place, before.value, new.value, _share(before, new.value))


def _same(old: Any, new: Any) -> bool:
    """Equal, or both no number."""
    nothing = [value is None or (isinstance(value, float) and math.isnan(value)) for value in (old, new)]
    return all(nothing) or bool(old == new)


def _share(old: Number, new: Any) -> float | None:
    if old.ci95 is None or None in old.ci95 or not isinstance(new, int | float):
        return None
    half = (old.ci95[1] - old.ci95[0]) / 2
    share = (new - old.value) / half if half > 0 and isinstance(old.value, int | float) else math.nan
    return abs(share) if math.isfinite(share) else None


def _changes(where: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Changed]:
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield Changed(where, name, old.get(name), new.get(name))
