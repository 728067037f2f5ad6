"""The nearest candidate of every query, exact to the last bit whatever the blocks are (smallest-L2 mapping).

Two stages. A matrix product screens all pairs: |a - b|^2 = |a|^2 + |b|^2 - 2 a.b, so argmin_j is that of |b_j|^2 -
2 a.b_j. Products round differently in different blocks, so every pair within the rounding bound of the best goes on
to the second stage: its distance from the difference itself, summed in one fixed order. The winner is the smallest
(distance, id). A distance depends on its two states alone, hence no block size, order or worker can change it, and
equal distances go to the smallest id.

Axes: m queries, k candidates, d entries of a state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from taba_core.errors import UsageError
from taba_core.stats.base import Array, flat

Metric = Literal["l2", "cosine"]
METRICS: tuple[Metric, ...] = ("l2", "cosine")
NOBODY = -1  # id of the nearest where there is none

_BLOCK = 512  # rows of a tile; bounds memory, never changes a value
_PAIRS_AT_ONCE = 1 << 20  # entries of differences formed at once
_UNIT = {np.float32: 2.0**-24, np.float64: 2.0**-53}  # largest relative error of one rounding


@dataclass(frozen=True, eq=False)
class Nearest:
    """Nearest candidate of each query: `distance` (m,) and `id` (m,).

    distance: Euclidean for l2, 1 - cosine for cosine; infinite with id NOBODY where no candidate is eligible.
    """

    distance: NDArray[np.float64]
    id: NDArray[np.int64]

    def best(self, other: Nearest) -> Nearest:
        """Row by row the smaller distance, then the smaller id: exact, in any order, any number of times."""
        closer = other.distance < self.distance
        tied = (other.distance == self.distance) & (self.id != NOBODY) & (other.id != NOBODY)
        use = closer | (tied & (other.id < self.id))
        return Nearest(
            np.where(use, other.distance, self.distance), np.where(use, other.id, self.id).astype(np.int64)
        )

    @classmethod
    def nobody(cls, queries: int) -> Nearest:
        """Before any candidate was seen."""
        return cls(np.full(queries, np.inf), np.full(queries, NOBODY, dtype=np.int64))


def nearest(queries: Array, candidates: Array, metric: Metric = "l2", *, block: int = _BLOCK) -> Nearest:
    """The nearest candidate of every query, by position; blockwise, d (m + k) and block^2 numbers in memory.

    Args:
      queries: (m, ...); candidates: (k, ...), any real dtype; differences and sums are float64.
      metric: "l2", or "cosine": 1 - a.b / (|a| |b|). A state of zero norm has no direction: as a candidate it is
        never the nearest, as a query it has none.
      block: candidates and queries of a tile; changes no value.

    Raises:
      UsageError: an unknown metric, states of different sizes, or none.
    """
    queries, candidates = np.asarray(queries), np.asarray(candidates)
    a, b = flat(queries), flat(candidates)
    check_states(a, b, metric)
    norms_a, norms_b = _squares(a), _squares(b)
    found = []
    for i in range(0, len(a), block):
        rows, best = slice(i, i + block), Nearest.nobody(len(a[i : i + block]))
        for j in range(0, len(b), block):
            cols = slice(j, j + block)
            product = product_of(queries[rows], candidates[cols], norms_a[rows], norms_b[cols])
            ids = np.arange(j, min(j + block, len(b)))
            best = best.best(
                screen(product, a[rows], b[cols], norms_a[rows], norms_b[cols], ids, metric=metric)
            )
        found.append(best)
    return Nearest(np.concatenate([x.distance for x in found]), np.concatenate([x.id for x in found]))


def nearest_direct(queries: Array, candidates: Array, metric: Metric = "l2") -> Nearest:
    """The same by its definition, query by query over all candidates: the slow reference."""
    a, b = flat(queries), flat(candidates)
    check_states(a, b, metric)
    best = Nearest.nobody(len(a))
    for i, query in enumerate(a):
        if metric == "l2":
            distance = np.sqrt(np.square(query - b).sum(axis=1))
        else:
            lengths = np.sqrt(np.square(query).sum()) * np.sqrt(_squares(b))
            with np.errstate(divide="ignore", invalid="ignore"):
                distance = np.where(lengths > 0, 1.0 - (query * b).sum(axis=1) / lengths, np.inf)
        j = int(distance.argmin())
        if distance[j] < np.inf:
            best.distance[i], best.id[i] = distance[j], j
    return best


def check_states(a: Array, b: Array, metric: str) -> None:
    """Refuse what no distance is defined for: other sizes, no states, an unknown metric."""
    if metric not in METRICS:
        raise UsageError(f"metric={metric!r} is not known; use one of {', '.join(METRICS)}.")
    if not (len(a) and len(b)) or a.shape[1] != b.shape[1]:
        raise UsageError(
            f"{len(a)} queries of {a.shape[1]} entries against {len(b)} candidates of {b.shape[1]}: "
            "give at least one of each, all of one size."
        )


class Products(NamedTuple):
    """Inner products of all pairs of queries and candidates, (m, k) float64, and the rounding unit of their sums."""

    values: Array
    unit: float = _UNIT[np.float64]

    @property
    def swapped(self) -> Products:
        """The same with queries and candidates swapped."""
        return Products(self.values.T, self.unit)


def product_of(queries: Array, candidates: Array, squares_a: Array, squares_b: Array) -> Products:
    """Inner products of all pairs.

    States stored in float32 are multiplied in float32, in half the time, since the product only screens; not where
    their squared norms (m,) and (k,) are so small or large that products could leave its range.
    """
    stored = queries.dtype == candidates.dtype == np.float32
    if stored and _within(squares_a) and _within(squares_b):
        product = queries.reshape(len(queries), -1) @ candidates.reshape(len(candidates), -1).T
        return Products(product.astype(np.float64), _UNIT[np.float32])
    return Products(flat(queries) @ flat(candidates).T)


def _within(squares: Array) -> bool:
    return bool(np.all((squares == 0) | ((squares > 1e-24) & (squares < 1e36))))


def screen(
    product: Products,
    a: Array,
    b: Array,
    squares_a: Array,
    squares_b: Array,
    ids: Array,
    eligible: Array | None = None,
    *,
    metric: Metric,
) -> Nearest:
    """Nearest candidates of one tile from its matrix product, decided by distances taken from the states.

    Args:
      product: of `product_of`: a @ b.T, (m, k). a: (m, d), b: (k, d), float64, with their squared norms (m,)
        and (k,).
      ids: (k,) of the candidates, ascending.
      eligible: (m, k); False forbids a pair.
    """
    lengths_a, lengths_b = np.sqrt(squares_a), np.sqrt(squares_b)
    if metric == "l2":
        score = squares_b - 2 * product.values
        of_product, rest = 2 * lengths_a * lengths_b.max(), np.square(lengths_a + lengths_b.max())
        allowed = eligible
    else:
        score = -product.values / np.where(squares_b > 0, lengths_b, 1.0)
        of_product, rest = lengths_a, lengths_a
        directed = (squares_a > 0)[:, None] & (squares_b > 0)
        allowed = directed if eligible is None else directed & eligible
    if allowed is not None:
        score = np.where(allowed, score, np.inf)
    # A sum of d products is off by at most about d units of its terms' size; twice for two scores, twice to be safe.
    bound = 4 * (a.shape[1] + 8) * (product.unit * of_product + _UNIT[np.float64] * rest)
    smallest = score.min(axis=1)
    close = (score <= (smallest + bound)[:, None]) & np.isfinite(score)
    best = Nearest.nobody(len(a))
    rows, columns = np.nonzero(close)
    for i, j in _chunks(rows, columns, a.shape[1]):
        _keep_smallest(best, i, ids[j], _distances(a[i], b[j], squares_a[i], squares_b[j], metric))
    return best


def _squares(states: Array) -> NDArray[np.float64]:
    return np.asarray(np.square(states).sum(axis=1))


def _distances(a: Array, b: Array, squares_a: Array, squares_b: Array, metric: Metric) -> Array:
    if metric == "l2":
        return np.asarray(np.sqrt(np.square(a - b).sum(axis=1)))
    return np.asarray(1.0 - (a * b).sum(axis=1) / (np.sqrt(squares_a) * np.sqrt(squares_b)))


def _chunks(i: Array, j: Array, entries: int) -> Iterator[tuple[Array, Array]]:
    step = max(1, _PAIRS_AT_ONCE // entries)
    for start in range(0, len(i), step):
        yield i[start : start + step], j[start : start + step]


def _keep_smallest(best: Nearest, rows: Array, ids: Array, distance: Array) -> None:
    """Enter pairs into `best`, in place: smallest distance first, then smallest id."""
    order = np.lexsort((ids, distance, rows))
    rows, ids, distance = rows[order], ids[order], distance[order]
    first = np.concatenate([[True], rows[1:] != rows[:-1]])
    rows, ids, distance = rows[first], ids[first], distance[first]
    better = (distance < best.distance[rows]) | ((distance == best.distance[rows]) & (ids < best.id[rows]))
    best.distance[rows[better]], best.id[rows[better]] = distance[better], ids[better]
