"""Claims by model, for the overview: one row a claim, one column a model, and which claims tell the models apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from taba_core.verdicts import Verdict
from workflows.analysis.presentation import Claim
from workflows.report.model_groups import CLOSED, GROUPS, group_of


@dataclass(frozen=True)
class VerdictTable:
    """The verdicts of several models on the same claims.

    Attributes:
      models: columns, closed forms first.
      rows: (id, statement, {model: claim}) of every claim, in the order of the report.
      sentences: what the columns say together.
    """

    models: tuple[str, ...]
    rows: tuple[tuple[str, str, Mapping[str, Claim]], ...]
    sentences: tuple[str, ...]


def verdict_table(claims: Sequence[Claim]) -> VerdictTable | None:
    """The table of a report's claims; None where they are of one model, which a list shows better.

    Of several results of a model, the first one speaks for it: reports show the largest first.
    """
    rows: dict[str, dict[str, Claim]] = {}
    for claim in claims:
        if claim.model:
            rows.setdefault(claim.base, {}).setdefault(claim.model, claim)
    found = dict.fromkeys(model for by_model in rows.values() for model in by_model)
    exact = {model for model in found if group_of(model) == CLOSED}
    # Sorting is stable: the report's order within each group.
    models = tuple(sorted(found, key=lambda model: GROUPS.index(group_of(model))))
    if len(models) < 2:
        return None
    table = tuple((name, next(iter(row.values())).statement, row) for name, row in rows.items())
    return VerdictTable(models, table, _sentences(rows, [m for m in models if m in exact], exact))


def _sentences(
    rows: Mapping[str, Mapping[str, Claim]], closed: Sequence[str], exact: set[str]
) -> tuple[str, ...]:
    """Which claims hold on a trained network and fail on a closed form, the other way round, and fail on both."""
    if not closed:
        return ()

    def among(name: str, verdict: Verdict, of_closed: bool) -> list[str]:
        row = rows[name]
        return [m for m, claim in row.items() if (m in exact) == of_closed and claim.verdict == verdict]

    def listed(own: Verdict, other: Verdict) -> str:
        """Claims with a verdict on a closed form and another on a trained network, with those networks."""
        both = [(name, among(name, other, False)) for name in rows if among(name, own, True)]
        return "; ".join(f"{name} ({', '.join(models)})" for name, models in both if models)

    kinds = (
        ("Fail on a closed form and hold on a trained network", listed("fails", "holds")),
        ("Hold on a closed form and fail on a trained network", listed("holds", "fails")),
        ("Fail on both", listed("fails", "fails")),
    )
    return tuple(f"{text}: {names}." for text, names in kinds if names)
