"""Smallest-distance mapping between two kinds of states: does the nearest one belong to the same sample? (Table 13)

acc(A -> B) = mean over i of [argmin_j |A_i - B_j| = i], over the candidates j of i's division (paper, App. N).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from taba_core.stats.base import SAMPLE, Block, State, check_finite, flat
from taba_core.stats.inputs import Input, entries
from taba_core.stats.nearest import METRICS, Metric, Nearest, check_states, product_of, screen
from taba_core.stats.pairs import DIVISION, PairStatistic, check_complete, union_of_rows


@dataclass(frozen=True)
class SmallestDistance(PairStatistic):
    """Nearest `second` of every `first` and nearest `first` of every `second`, by each metric.

    One matrix product serves both directions and all metrics. State, 16 bytes a sample, direction and metric:
    `sample` (n,), and for each `direction/metric` its `.../distance` and `.../id`; "forth" is first -> second.
    """

    first: str = "noise"
    second: str = "image"
    metrics: tuple[Metric, ...] = METRICS

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Two states of one shape, (n, C, H, W)."""
        return (entries(self.first), entries(self.second))

    def partial(self, block: Block, other: Block) -> State:
        """`first` of `block` against `second` of `other`, both ways; samples of another division are no candidates."""
        check_finite(block, (self.first,))
        check_finite(other, (self.second,))
        a, b = flat(block[self.first]), flat(other[self.second])
        labels, other_labels = np.asarray(block[DIVISION]), np.asarray(other[DIVISION])
        eligible = labels[:, None] == other_labels
        squares_a, squares_b = np.square(a).sum(axis=1), np.square(b).sum(axis=1)
        stored = np.asarray(block[self.first]), np.asarray(other[self.second])
        product = product_of(*stored, squares_a, squares_b)
        ids, other_ids = np.asarray(block[SAMPLE], np.int64), np.asarray(other[SAMPLE], np.int64)
        forth: State = {SAMPLE: ids}
        back: State = {SAMPLE: other_ids}
        for metric in self.metrics:
            check_states(a, b, metric)
            there = screen(product, a, b, squares_a, squares_b, other_ids, eligible, metric=metric)
            again = screen(product.swapped, b, a, squares_b, squares_a, ids, eligible.T, metric=metric)
            _put(forth, f"forth/{metric}", there)
            _put(forth, f"back/{metric}", Nearest.nobody(len(ids)))
            _put(back, f"back/{metric}", again)
            _put(back, f"forth/{metric}", Nearest.nobody(len(other_ids)))
        return self.merge(forth, back)

    def merge(self, a: State, b: State) -> State:
        """Smallest (distance, id) of both, row by row."""
        if not a or not b:
            return dict(a or b)
        ids, at_a, at_b = union_of_rows(a, b)
        merged: State = {SAMPLE: ids}
        for name in (f"{direction}/{metric}" for direction in ("forth", "back") for metric in self.metrics):
            whole = []
            for state, at in ((a, at_a), (b, at_b)):
                rows = Nearest.nobody(len(ids))
                rows.distance[at], rows.id[at] = state[f"{name}/distance"], state[f"{name}/id"]
                whole.append(rows)
            _put(merged, name, whole[0].best(whole[1]))
        return merged

    def found(self, state: State, num_samples: int) -> dict[str, Nearest]:
        """Nearest states of samples 0..num_samples-1 by `direction/metric`.

        Raises:
          WorkError: samples are missing.
        """
        check_complete(state, num_samples, type(self).__name__)
        names = [f"{direction}/{metric}" for direction in ("forth", "back") for metric in self.metrics]
        return {name: Nearest(state[f"{name}/distance"], state[f"{name}/id"]) for name in names}


def _put(state: State, name: str, rows: Nearest) -> None:
    state[f"{name}/distance"], state[f"{name}/id"] = rows.distance, rows.id
