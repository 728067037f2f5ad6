"""A row statistic whose rows are stored already: the same value, to the bit, without the arrays they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from taba_core.stats.base import Array, Block, RowStatistic
from taba_core.stats.inputs import Input, entries


@dataclass(frozen=True)
class StoredRows(RowStatistic):
    """`statistic` over rows that its own `rows` made earlier, stored in float64 under `names`.

    Rows of a sample do not depend on the other samples of its block, so who made them changes no value.
    """

    statistic: RowStatistic
    names: tuple[str, ...]

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The rows, each (n, ...)."""
        return tuple(entries(name, values="number", grid=name) for name in self.names)

    def rows(self, block: Block) -> dict[str, Array]:
        """As stored."""
        return {name: block[name] for name in self.names}

    def terms(self, rows: Mapping[str, Array]) -> Mapping[str, Array]:
        """Those of the statistic."""
        return self.statistic.terms(rows)

    def summarise_sums(self, sums: Mapping[str, Array], count: Array) -> dict[str, Array]:
        """Those of the statistic."""
        return self.statistic.summarise_sums(sums, count)
