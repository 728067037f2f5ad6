"""Means and co-moments of features over samples: what correlations, Fréchet distances and alignments share."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from taba_core.stats.base import COUNT, Array, Block, MomentStatistic, State, left_half, merge_means

SAMPLES_PER_PRODUCT = 512
ROWS = "rows"
Part = tuple[int, Array, Array]
"""Of one group: the number of samples, their mean (p,), their co-moments (p, p)."""


class Room:
    """Arrays that are used again and again: a processor spends more time on fresh memory than on small products."""

    def __init__(self) -> None:
        self._held: dict[str, Array] = {}

    def array(self, name: str, shape: tuple[int, ...], kind: DTypeLike) -> Array:
        """The array of this name, with whatever was in it; a new one if its shape or its type is another."""
        held = self._held.get(name)
        if held is None or held.shape != shape or held.dtype != kind:
            held = self._held[name] = np.empty(shape, kind)
        return held


@dataclass(frozen=True)
class CoMomentStatistic(MomentStatistic):
    """Mean and co-moments M = sum (f - mean)(f - mean)^T of G groups of p features, over samples.

    Few samples are kept as they are (`rows`), until they fill a matrix product; then the state is G (p + p^2)
    float64 numbers, whatever n is. Which form a state has follows from its place in the merge tree alone, so
    the bits do not depend on the split.
    """

    product: ClassVar[DTypeLike] = np.float64
    """Type in which the deviations of up to `rows_kept` samples from their mean are multiplied."""
    whole_block: ClassVar[int] = SAMPLES_PER_PRODUCT

    @abc.abstractmethod
    def features(self, block: Block) -> NDArray[np.floating]:
        """Features of the n samples of a block, (G, n, p): group after group, so that products read them in order."""

    def rows_kept(self, num_features: int) -> int:
        """Fewer samples than this are kept as rows."""
        return SAMPLES_PER_PRODUCT

    def partial(self, block: Block) -> State:
        """Features of a block."""
        rows = self.features(block)
        return self.settled({COUNT: np.asarray(rows.shape[1], dtype=np.int64), ROWS: rows})

    def combine(self, a: State, b: State) -> State:
        """Chan's rule per group: M = M_a + M_b + delta delta^T n_a n_b / n."""
        if ROWS in a and ROWS in b:
            return self.settled({ROWS: np.concatenate([a[ROWS], b[ROWS]], axis=1)})
        a, b = {**a, **self.moments(a)}, {**b, **self.moments(b)}
        mean, delta, weight = merge_means(a, b, "mean")
        comoment, step = np.empty_like(a["comoment"]), np.empty(a["comoment"].shape[1:])
        for group, shift in enumerate(delta):  # one at a time: a core's cache holds it
            np.add(a["comoment"][group], b["comoment"][group], out=comoment[group])
            np.multiply(shift[:, None], weight * shift, out=step)
            comoment[group] += step
        return {"mean": mean, "comoment": comoment}

    def merge_tree(self, states: Sequence[State]) -> State:
        """The same bits as merging whole states, group after group: what is half merged never leaves the cache."""
        # States that are computed when they are looked at are not all looked at together.
        if len(states) < 3 or not isinstance(states, list | tuple):
            return super().merge_tree(states)
        num_groups, features = self.shape(states[0])
        count = sum(int(state[COUNT]) for state in states)
        if count < self.rows_kept(features):
            return super().merge_tree(states)
        mean, comoment = np.empty((num_groups, features)), np.empty((num_groups, features, features))
        room = Room()
        for group in range(num_groups):
            node = self._node(states, group, room)
            _, mean[group], comoment[group] = self._as_part(node, room)
        return {COUNT: np.asarray(count, dtype=np.int64), "mean": mean, "comoment": comoment}

    def _node(self, states: Sequence[State], group: int, room: Room) -> Part | list[Array]:
        """A node of the merge tree, of one group alone: its moments, or the rows that are too few for a product."""
        if len(states) == 1:
            return [states[0][ROWS][group]] if ROWS in states[0] else self.part(states[0], group)
        half = left_half(len(states))
        a, b = self._node(states[:half], group, room), self._node(states[half:], group, room)
        if isinstance(a, list) and isinstance(b, list):
            rows = a + b
            return (
                self._as_part(rows, room) if sum(map(len, rows)) >= self.rows_kept(rows[0].shape[1]) else rows
            )
        return _merged(self._as_part(a, room), self._as_part(b, room))

    def _as_part(self, node: Part | list[Array], room: Room) -> Part:
        return self._part_of_rows(node, room=room) if isinstance(node, list) else node

    def settled(self, state: State) -> State:
        """The state itself, or its moments if it has rows enough."""
        rows = state[ROWS]
        if rows.shape[1] < self.rows_kept(rows.shape[2]):
            return state
        return {**{k: v for k, v in state.items() if k != ROWS}, **self.moments(state)}

    def moments(self, state: State) -> State:
        """Mean (G, p) and co-moments (G, p, p) of a state in either form, float64."""
        if ROWS not in state:
            return {"mean": state["mean"], "comoment": state["comoment"]}
        num_groups, features = self.shape(state)
        mean, comoment = np.empty((num_groups, features)), np.empty((num_groups, features, features))
        room = Room()
        for group, out in enumerate(comoment):  # one at a time: a core's cache holds it
            mean[group] = self.part(state, group, out, room)[1]
        return {"mean": mean, "comoment": comoment}

    def shape(self, state: State) -> tuple[int, int]:
        """(G, p) of a state with samples."""
        if ROWS not in state:
            return len(state["mean"]), len(state["mean"][0])
        num_groups, _, features = state[ROWS].shape
        return num_groups, features

    def part(self, state: State, group: int, out: Array | None = None, room: Room | None = None) -> Part:
        """Count, mean (p,) and co-moments (p, p) of one group, the bits of `moments`.

        Args:
          out: where the co-moments are put if they have to be made; a new array if None.
          room: for what is made on the way.
        """
        if ROWS not in state:
            return int(state[COUNT]), state["mean"][group], state["comoment"][group]
        return self._part_of_rows([state[ROWS][group]], out, room)

    def _part_of_rows(
        self, rows: Sequence[Array], out: Array | None = None, room: Room | None = None
    ) -> Part:
        """The moments of samples in several arrays (n, p), as if they were one array."""
        n, mean, product = self.multiplied(rows, room or Room())
        comoment = np.empty(product.shape) if out is None else out
        comoment[...] = product
        return n, mean, comoment

    def multiplied(self, rows: Sequence[Array], room: Room) -> Part:
        """Count, mean (p,) and co-moments (p, p) of samples that lie in several arrays (n, p).

        The co-moments have the type `product` and lie in `room`: the next call with the same room overwrites them.
        """
        n, features, kind = sum(map(len, rows)), rows[0].shape[1], rows[0].dtype
        deviations = room.array("deviations", (n, features), np.result_type(kind, self.product))
        joined = rows[0] if len(rows) == 1 else np.concatenate(rows, out=deviations)
        mean = joined.mean(axis=0, dtype=np.float64)
        # Rows of the product's own type are subtracted in it: rounding the mean shifts all deviations alike.
        np.subtract(joined, mean.astype(deviations.dtype), out=deviations)
        factor = deviations.astype(self.product, copy=False)
        return (
            n,
            mean,
            np.matmul(factor.T, factor, out=room.array("product", (features, features), self.product)),
        )

    def covariance(self, state: State) -> Array:
        """Sample covariances M / (n - 1), (G, p, p); NaN for n < 2."""
        n = int(state[COUNT])
        return np.asarray(self.moments(state)["comoment"] / (n - 1 if n > 1 else np.nan))


class OthersMerged:
    """Of the states of two parts or more: the others merged, without part 0, without part 1, ...; group after group.

    Each is the merge of what comes before and of what comes after, by Chan's rule. Co-moments are symmetric, so
    only their triangles are merged, packed row by row with the diagonal: p (p + 1) / 2 numbers. All groups are
    computed in the same 2 G + 1 of these arrays.
    """

    def __init__(self, statistic: CoMomentStatistic, states: Sequence[State]) -> None:
        self._statistic, self._states, self._room = statistic, states, Room()
        _, features = statistic.shape(states[0])
        self._positions = packed_positions(features)
        self._parts, self._suffixes = np.empty((2, len(states), len(self._positions)))
        self._prefix = np.empty(len(self._positions))

    def of(self, group: int) -> Iterator[Part]:
        """Count, mean and packed co-moments of one group. The co-moments are good until the next is asked for."""
        parts = [
            self._packed(state, group, out) for state, out in zip(self._states, self._parts, strict=True)
        ]
        suffixes = [parts[-1]]  # of the last part, the last two, ...
        for part, out in zip(parts[-2:0:-1], self._suffixes[1:], strict=False):
            suffixes.append(_merged_packed(part, suffixes[-1], out))
        yield suffixes.pop()
        prefix = parts[0]
        for part in parts[1:-1]:
            yield _merged_packed(prefix, suffixes.pop(), self._suffixes[0])
            prefix = _merged_packed(prefix, part, self._prefix)
        yield prefix

    def _packed(self, state: State, group: int, out: Array) -> Part:
        if ROWS in state:
            n, mean, comoment = self._statistic.multiplied([state[ROWS][group]], self._room)
        else:
            n, mean, comoment = self._statistic.part(state, group)
        held = self._room.array("packed", out.shape, comoment.dtype)
        # "clip" is a mode that writes into `out` without a copy.
        out[...] = comoment.ravel().take(self._positions, out=held, mode="clip")
        return n, mean, out


def packed_positions(features: int) -> NDArray[np.intp]:
    """Where the pairs a <= b are in a matrix (p, p) that is read row by row; p (p + 1) / 2 positions, ascending."""
    return np.flatnonzero(np.triu(np.ones((features, features), dtype=bool)))


def add_outer_square(weight: float, x: Array, packed: Array) -> None:
    """Add weight x x^T to a packed triangle (p (p + 1) / 2,) float64, in place; x is (p,) float64."""
    # BLAS packs by columns: the upper triangle by rows is its lower one.
    _packed_update()(len(x), weight, x, packed, lower=1, overwrite_ap=1)


@functools.cache
def _packed_update() -> Callable[..., object]:
    from scipy.linalg.blas import dspr  # scipy.linalg takes a tenth of a second to import

    return cast("Callable[..., object]", dspr)


def _merged(a: Part, b: Part) -> Part:
    """Chan's rule."""
    n, mean, delta, weight = _merged_mean(a, b)
    comoment = np.add(a[2], b[2])
    comoment += np.multiply(delta[:, None], weight * delta)
    return n, mean, comoment


def _merged_packed(a: Part, b: Part, out: Array) -> Part:
    """Chan's rule for packed co-moments; they are put into `out`, which may be those of `a`."""
    n, mean, delta, weight = _merged_mean(a, b)
    np.add(a[2], b[2], out=out)
    add_outer_square(weight, delta, out)
    return n, mean, out


def _merged_mean(a: Part, b: Part) -> tuple[int, Array, Array, float]:
    """Count and mean of both, how far the means are apart, and the weight of that in the co-moments."""
    (n_a, mean_a, _), (n_b, mean_b, _) = a, b
    n = n_a + n_b
    delta = mean_b - mean_a
    return n, mean_a + delta * (n_b / n), delta, n_a * n_b / n
